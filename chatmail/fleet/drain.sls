{#- Closes relays in two steps: no new addresses; and, when `mail: off` says so, no mail at all, also after a converge.
    It runs on the master:
    salt-run state.orchestrate chatmail.fleet.drain pillar='{"chatmail_drain": {"relays": ["relay1"], "mail": "off"} }'
    -#}
{% from "chatmail/fleet/asked.jinja" import asked with context %}

chatmail relays create no address:
  chatmail_fleet.called:
    - relays: {{ asked.drain.relays | json }}
    - function: chatmail_accounts.nocreate
    - arguments: {state: "on"}
    - failhard: True

{%- if not asked.drain.mail %}

chatmail relays have no mail:
  chatmail_fleet.called:
    - relays: {{ asked.drain.relays | json }}
    - function: chatmail_move.off
    - arguments: {reason: this relay is closed}
    - failhard: True
{%- endif %}
