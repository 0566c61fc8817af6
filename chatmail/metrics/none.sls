{#- No metrics: nobody listens, and the services (chatmail.services) start anew without counting. -#}
include:
  - chatmail.services
  - chatmail.metrics.clean

extend:
{%- for service in ["accounts", "dict", "filter", "transport"] %}
  service chatmail-{{ service }}:
    service:
      - watch:
        - file: chatmail-{{ service }} counts no more
{%- endfor %}
