{#- Replaces the DKIM keys of the relays of `chatmail_fleet`, group by group. The first relay that fails stops it. A
    relay whose records wait for publishing by hand is no failure: the next run goes on there. It runs on the master:
    salt-run state.orchestrate chatmail.fleet.rotate_dkim -#}
{% from "chatmail/fleet/plan.jinja" import plan with context %}

{% for group in plan.groups %}
chatmail rotate DKIM keys {{ group.name }}:
  chatmail_fleet.called:
    - relays: {{ group.relays | json }}
    - untouched: {{ group.later | json }}
    - at_once: {{ plan.at_once }}
    - function: chatmail_dkim.rotate
    - failhard: True
{% endfor %}
