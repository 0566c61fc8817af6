{#- Moves a relay to a new machine, Debian 12 to 13 included. It runs on the master, and can be run again at any point:
    salt-run state.orchestrate chatmail.fleet.move pillar='{"chatmail_move": {"from": "old", "to": "new"}}' -#}
{% set move = pillar.get("chatmail_move") or {} %}

chatmail relay runs on the new machine:
  chatmail_move.moved:
    - source: {{ move.get("from") | json }}
    - target: {{ move.get("to") | json }}
    - failhard: True
