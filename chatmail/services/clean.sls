{#- Removes our own services, their sockets and their data: pending notifications, invitations. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% set units = "/etc/systemd/system/" %}
{#- The last one is chatmail-metadata's name up to release 2026.11. -#}
{% for service in relay.services | reverse | list + ["dict"] %}
chatmail-{{ service }} is stopped:
  service.dead:
    - name: chatmail-{{ service }}
    - enable: False
    - onlyif:
      - fun: file.file_exists
        path: {{ units }}chatmail-{{ service }}.service

unit chatmail-{{ service }} is gone:
  file.absent:
    - name: {{ units }}chatmail-{{ service }}.service
    - require:
      - service: chatmail-{{ service }} is stopped
    - onchanges_in:
      - cmd: systemd forgets our services
{% endfor %}

hardening of the services is gone:
  file.absent:
    - name: {{ units }}chatmail-.service.d

systemd forgets our services:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: hardening of the services is gone

sockets and memory of the services are gone:
  file.absent:
    - names:
      - /var/lib/chatmail-accounts
      - /var/lib/chatmail-metadata
      - /var/lib/chatmail-dict
      - /var/spool/postfix/chatmail
      - /var/spool/postfix/chatmail-transport
    - require:
      - cmd: systemd forgets our services
