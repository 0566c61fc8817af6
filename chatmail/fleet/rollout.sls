{#- Brings the formula, and each change of the pillar, to the relays of `chatmail_fleet`: the canaries first, then one
    wave after another. The first relay that fails stops it. It runs on the master: salt-run state.orchestrate
    chatmail.fleet.rollout -#}
{% from "chatmail/fleet/plan.jinja" import plan with context %}

{% for group in plan.groups %}
chatmail rollout {{ group.name }}:
  chatmail_fleet.converged:
    - relays: {{ group.relays | json }}
    - untouched: {{ group.later | json }}
    - at_once: {{ plan.at_once }}
    - saltenv: "{{ group.saltenv }}"
    - failhard: True
{% endfor %}
