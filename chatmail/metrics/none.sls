{#- No metrics: removes the endpoint, and restarts the services (chatmail.services) without counting. -#}
include:
  - chatmail.services
  - chatmail.metrics.clean

extend:
{%- for service in ["accounts", "dict", "filter", "transport"] %}
  service chatmail-{{ service }}:
    service:
      - watch:
        - file: chatmail-{{ service }} does not count
{%- endfor %}
