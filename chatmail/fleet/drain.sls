{#- Closes relays in two steps: no new addresses; and, when `mail: off` says so, no mail at all, also after a converge.
    It runs on the master:
    salt-run state.orchestrate chatmail.fleet.drain pillar='{"chatmail_drain": {"relays": ["relay1"], "mail": "off"}}'
    -#}
{% set drain = pillar.get("chatmail_drain") or {} %}
{%- if not drain.get("relays") or drain.get("mail", "on") not in ["on", "off", True, False] %}
  {%- do salt["test.raise_exception"]("salt.exceptions.CommandExecutionError",
        "chatmail_drain: %s; expected: {relays: [minion ids], mail: on or off}" % drain) -%}
{%- endif %}

chatmail relays create no address:
  chatmail_fleet.called:
    - relays: {{ drain.relays | json }}
    - function: chatmail_accounts.nocreate
    - arguments: {state: "on"}
    - failhard: True

{%- if drain.get("mail", "on") in ["off", False] %}

chatmail relays have no mail:
  chatmail_fleet.called:
    - relays: {{ drain.relays | json }}
    - function: chatmail_move.off
    - arguments: {reason: this relay is closed}
    - failhard: True
{%- endif %}
