{#- Deletes mail, keys and users on the machine that a relay has left. There is no way back. It runs on the master:
    salt-run state.orchestrate chatmail.fleet.move_purge pillar='{"chatmail_move": {"from": "old", "to": "new"}}' -#}
{% set move = pillar.get("chatmail_move") or {} %}

chatmail old machine is purged:
  chatmail_move.purged:
    - source: {{ move.get("from") | json }}
    - target: {{ move.get("to") | json }}
    - failhard: True
