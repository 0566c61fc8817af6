{#- Up to release 2026.11, chatmail-accounts only created addresses, and chatmail-metadata, or before it chatmail-dict,
    had a unit of its own. This file stops such a unit, and keeps the notifications that wait. Needs the new unit
    (chatmail.services). Changes nothing on a machine that never had them. Can go when no relay upgrades from that
    release any more. -#}
include:
  - chatmail.services

{% for old in ["dict", "metadata"] %}
{% set unit = "/etc/systemd/system/chatmail-" ~ old ~ ".service" %}

chatmail-{{ old }} is stopped:
  chatmail_service.dead:
    - name: chatmail-{{ old }}
    - require:
      - file: chatmail-accounts unit
      - file: chatmail program
      - sls: chatmail.dkim
    - require_in:
      - chatmail_service: chatmail-accounts service

chatmail-{{ old }} unit is gone:
  file.absent:
    - names:
      - {{ unit }}
      - {{ unit }}.d
      - /run/chatmail-metrics/{{ old }}
    - require:
      - chatmail_service: chatmail-{{ old }} is stopped
{% endfor %}

chatmail-dict notifications are kept:
  file.rename:
    - name: /var/lib/chatmail-metadata
    - source: /var/lib/chatmail-dict
    - require:
      - chatmail_service: chatmail-dict is stopped
    - require_in:
      - chatmail_service: chatmail-accounts service
