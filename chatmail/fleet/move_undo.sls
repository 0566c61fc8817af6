{#- Brings a relay back to its old machine, with all that arrived on the new one meanwhile: the same move in the other
    direction, with the same pillar. It runs on the master, until the old machine is purged:
    salt-run state.orchestrate chatmail.fleet.move_undo pillar='{"chatmail_move": {"from": "old", "to": "new"}}' -#}
{% set move = pillar.get("chatmail_move") or {} %}

chatmail relay runs on the old machine again:
  chatmail_move.moved:
    - source: {{ move.get("to") | json }}
    - target: {{ move.get("from") | json }}
    - failhard: True
