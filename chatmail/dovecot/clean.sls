{#- Stops Dovecot and restores the configuration that it had before. chatmail.host.clean decides about the mail. -#}
{% from "chatmail/host/backup.jinja" import ours %}

include:
  - chatmail.modules

chatmail dovecot is stopped:
  chatmail_service.dead:
    - name: dovecot
    - onlyif: {{ ours("/etc/dovecot/dovecot.conf") }}

chatmail original of /etc/dovecot/dovecot.conf is back:
  chatmail_original.restored:
    - name: /etc/dovecot/dovecot.conf
    - require:
      - chatmail_service: chatmail dovecot is stopped

chatmail dovecot scripts are gone:
  file.absent:
    - names:
      - /etc/dovecot/auth.lua
      - /etc/dovecot/push.lua
      - /usr/local/lib/chatmail/imap
      - /usr/local/lib/chatmail/imap-hibernate
      - /usr/local/lib/chatmail/imap-login
    - require:
      - chatmail_service: chatmail dovecot is stopped

chatmail drop-in of dovecot is gone:
  file.absent:
    - name: /etc/systemd/system/dovecot.service.d/chatmail.conf
    - require:
      - chatmail_service: chatmail dovecot is stopped

chatmail systemd forgets the drop-in of dovecot:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: chatmail drop-in of dovecot is gone
