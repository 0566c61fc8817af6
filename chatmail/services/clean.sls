{#- Removes our own services, their sockets and their data: pending notifications, invitations. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules

{% set units = "/etc/systemd/system/" %}
{#- Up to release 2026.11, two parts of chatmail-accounts had units of their own. -#}
{% for service in relay.services | reverse | list + ["metadata", "dict"] %}
chatmail-{{ service }} is stopped:
  chatmail_service.dead:
    - name: chatmail-{{ service }}

chatmail-{{ service }} unit is gone:
  file.absent:
    - name: {{ units }}chatmail-{{ service }}.service
    - require:
      - chatmail_service: chatmail-{{ service }} is stopped
    - onchanges_in:
      - cmd: chatmail systemd forgets our services
{% endfor %}

chatmail hardening of the services is gone:
  file.absent:
    - name: {{ units }}chatmail-.service.d

chatmail systemd forgets our services:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: chatmail hardening of the services is gone

chatmail sockets and memory of the services are gone:
  file.absent:
    - names:
      - /var/lib/chatmail-accounts
      - /var/lib/chatmail-metadata
      - /var/lib/chatmail-dict
      - /var/spool/postfix/chatmail
      - /var/spool/postfix/chatmail-transport
    - require:
      - cmd: chatmail systemd forgets our services
