{#- Lets Dovecot's imap run as Debian ships it. Needs nothing. The compiler stays, because it may be the operator's. -#}
chatmail-imap-notify is stopped:
  service.dead:
    - name: chatmail-imap-notify.path
    - enable: False
    # For a unit that does not exist, a dry run would say that it may have to be stopped.
    - onlyif:
      - fun: file.file_exists
        path: /etc/systemd/system/chatmail-imap-notify.path

chatmail-imap-notify units are gone:
  file.absent:
    - names:
      - /etc/systemd/system/chatmail-imap-notify.path
      - /etc/systemd/system/chatmail-imap-notify.service
    - require:
      - service: chatmail-imap-notify is stopped

chatmail imap_notify is gone:
  file.absent:
    - name: /usr/local/lib/chatmail/imap_notify
    - require:
      - file: chatmail-imap-notify units are gone
