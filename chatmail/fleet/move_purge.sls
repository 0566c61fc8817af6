{#- Deletes mail, keys and users on the machine that a relay has left. There is no way back. It runs on the master:
    salt-run state.orchestrate chatmail.fleet.move_purge pillar='{"chatmail_move": {"from": "old", "to": "new"} }' -#}
{% from "chatmail/fleet/asked.jinja" import asked with context %}

chatmail old machine is purged:
  chatmail_move.purged:
    - source: {{ asked.move["from"] | json }}
    - target: {{ asked.move["to"] | json }}
    - failhard: True
