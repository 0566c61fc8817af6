{#- No metrics: removes the endpoint, and restarts the services (chatmail.services) without counting. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.services
  - chatmail.metrics.clean

extend:
  chatmail systemd reads its units:
    cmd:
      - onchanges:
{%- for service in relay.services %}
        - file: chatmail-{{ service }} does not count
{%- endfor %}
{%- for service in relay.services %}
  chatmail-{{ service }} service:
    chatmail_service:
      - watch:
        - file: chatmail-{{ service }} does not count
{%- endfor %}
