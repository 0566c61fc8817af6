{#- No metrics: nobody listens, and the services (chatmail.services) start anew without counting. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.services
  - chatmail.metrics.clean

extend:
{%- for service in relay.services %}
  service chatmail-{{ service }}:
    service:
      - watch:
        - file: chatmail-{{ service }} counts no more
{%- endfor %}
