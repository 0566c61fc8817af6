{#- Up to release 2026.11, chatmail-metadata was called chatmail-dict. This file stops chatmail-dict, and hands the
    notifications that wait in its directory to chatmail-metadata. Needs the new unit (chatmail.services). Changes
    nothing on a machine that never had chatmail-dict. Can go when no relay upgrades from that release any more. -#}
include:
  - chatmail.services

{% set unit = "/etc/systemd/system/chatmail-dict.service" %}

chatmail-dict is stopped:
  chatmail_service.dead:
    - name: chatmail-dict
    - require:
      - file: chatmail-metadata unit
      - file: chatmail program
      - sls: chatmail.dkim

chatmail-dict notifications are kept:
  file.rename:
    - name: /var/lib/chatmail-metadata
    - source: /var/lib/chatmail-dict
    - require:
      - chatmail_service: chatmail-dict is stopped
    - require_in:
      - chatmail_service: chatmail-metadata service

chatmail-dict unit is gone:
  file.absent:
    - names:
      - {{ unit }}
      - {{ unit }}.d
      - /run/chatmail-metrics/dict
    - require:
      - chatmail_service: chatmail-dict is stopped
