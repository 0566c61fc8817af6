{#- Moves a relay to a new machine, Debian 12 to 13 included. It runs on the master, and can be run again at any point:
    salt-run state.orchestrate chatmail.fleet.move pillar='{"chatmail_move": {"from": "old", "to": "new"} }' -#}
{% from "chatmail/fleet/asked.jinja" import asked with context %}

chatmail relay runs on the new machine:
  chatmail_move.moved:
    - source: {{ asked.move["from"] | json }}
    - target: {{ asked.move["to"] | json }}
    - failhard: True
