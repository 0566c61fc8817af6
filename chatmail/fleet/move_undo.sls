{#- Brings a relay back to its old machine, with all that arrived on the new one meanwhile: the same move in the other
    direction, with the same pillar. It runs on the master, until the old machine is purged:
    salt-run state.orchestrate chatmail.fleet.move_undo pillar='{"chatmail_move": {"from": "old", "to": "new"} }' -#}
{% from "chatmail/fleet/asked.jinja" import asked with context %}

chatmail relay runs on the old machine again:
  chatmail_move.moved:
    - source: {{ asked.move["to"] | json }}
    - target: {{ asked.move["from"] | json }}
    - failhard: True
