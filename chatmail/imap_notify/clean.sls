{#- Lets Dovecot's imap run as Debian ships it. Needs nothing. The compiler stays, because it may be the operator's. -#}

include:
  - chatmail.modules

chatmail-imap-notify is stopped:
  chatmail_service.dead:
    - name: chatmail-imap-notify.path

chatmail-imap-notify units are gone:
  file.absent:
    - names:
      - /etc/systemd/system/chatmail-imap-notify.path
      - /etc/systemd/system/chatmail-imap-notify.service
    - require:
      - chatmail_service: chatmail-imap-notify is stopped

chatmail imap_notify is gone:
  file.absent:
    - name: /usr/local/lib/chatmail/imap_notify
    - require:
      - file: chatmail-imap-notify units are gone
