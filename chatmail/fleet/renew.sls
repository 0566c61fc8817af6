{#- Gets the certificates that are due now on the relays of `chatmail_fleet`, group by group, and does not wait for
    certbot's timer. The first relay that fails stops it. It runs on the master: salt-run state.orchestrate
    chatmail.fleet.renew -#}
{% from "chatmail/fleet/plan.jinja" import plan with context %}

{% for group in plan.groups %}
chatmail renew certificates {{ group.name }}:
  chatmail_fleet.called:
    - relays: {{ group.relays | json }}
    - untouched: {{ group.later | json }}
    - at_once: {{ plan.at_once }}
    - function: chatmail_certificate.renew
    - failhard: True
{% endfor %}
