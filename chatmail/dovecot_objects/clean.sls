{#- Lets Dovecot's programs run as Debian ships them. Needs nothing. The compiler stays, because it may be the operator's. -#}

include:
  - chatmail.modules

chatmail-dovecot-objects is stopped:
  chatmail_service.dead:
    - name: chatmail-dovecot-objects.path

chatmail-dovecot-objects units are gone:
  file.absent:
    - names:
      - /etc/systemd/system/chatmail-dovecot-objects.path
      - /etc/systemd/system/chatmail-dovecot-objects.service
    - require:
      - chatmail_service: chatmail-dovecot-objects is stopped

chatmail dovecot_objects are gone:
  file.absent:
    - name: /usr/local/lib/chatmail/dovecot_objects
    - require:
      - file: chatmail-dovecot-objects units are gone
