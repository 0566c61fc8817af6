{#- Stops Dovecot and restores the configuration that it had before. chatmail.host.clean decides about the mail. -#}
{% from "chatmail/host/backup.jinja" import original_is_back, ours %}

chatmail dovecot is stopped:
  service.dead:
    - name: dovecot
    - enable: False
    - onlyif: {{ ours("/etc/dovecot/dovecot.conf") }}

{{ original_is_back("/etc/dovecot/dovecot.conf", {"service": "chatmail dovecot is stopped"}) }}

chatmail dovecot scripts are gone:
  file.absent:
    - names:
      - /etc/dovecot/auth.lua
      - /etc/dovecot/push.lua
      - /usr/local/lib/chatmail/imap
      - /usr/local/lib/chatmail/imap-login
    - require:
      - service: chatmail dovecot is stopped

chatmail drop-in of dovecot is gone:
  file.absent:
    - name: /etc/systemd/system/dovecot.service.d/chatmail.conf
    - require:
      - service: chatmail dovecot is stopped

chatmail systemd forgets the drop-in of dovecot:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: chatmail drop-in of dovecot is gone
