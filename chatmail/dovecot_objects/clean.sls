{#- Lets Dovecot's programs run as Debian ships them. Needs nothing. The compiler stays, because it may be the operator's. -#}
chatmail-dovecot-objects is stopped:
  service.dead:
    - name: chatmail-dovecot-objects.path
    - enable: False
    # For a unit that does not exist, a dry run would say that it may have to be stopped.
    - onlyif:
      - fun: file.file_exists
        path: /etc/systemd/system/chatmail-dovecot-objects.path

chatmail-dovecot-objects units are gone:
  file.absent:
    - names:
      - /etc/systemd/system/chatmail-dovecot-objects.path
      - /etc/systemd/system/chatmail-dovecot-objects.service
    - require:
      - service: chatmail-dovecot-objects is stopped

chatmail dovecot_objects are gone:
  file.absent:
    - name: /usr/local/lib/chatmail/dovecot_objects
    - require:
      - file: chatmail-dovecot-objects units are gone
