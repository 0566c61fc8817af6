{#- Removes our own services, their sockets and their data: pending notifications, invitations. -#}
{% set units = "/etc/systemd/system/" %}
{% for service in ["transport", "filter", "dict", "accounts"] %}
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

programs and sockets of the services are gone:
  file.absent:
    - names:
      - /usr/local/lib/chatmail/chatmaild
      - /var/lib/chatmail-accounts
      - /var/lib/chatmail-dict
      - /var/spool/postfix/chatmail
      - /var/spool/postfix/chatmail-transport
    - require:
      - cmd: systemd forgets our services
