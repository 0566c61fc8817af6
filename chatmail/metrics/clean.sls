{#- Removes the endpoint, and the drop-ins with which the services count. Needs nothing. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules

{% set units = "/etc/systemd/system/" %}
chatmail metrics service is stopped:
  chatmail_service.dead:
    - name: chatmail-metrics

chatmail-metrics unit is gone:
  file.absent:
    - name: {{ units }}chatmail-metrics.service
    - require:
      - chatmail_service: chatmail metrics service is stopped

{% for service in relay.services %}
chatmail-{{ service }} does not count:
  file.absent:
    - name: {{ units }}chatmail-{{ service }}.service.d/metrics.conf
    - require_in:
      - file: chatmail counts are gone
{% endfor %}

chatmail counts are gone:
  file.absent:
    - name: /run/chatmail-metrics
