{#- A journal that is in memory and keeps three days at most. Needs nothing. -#}
include:
  - .ports

chatmail journal directory for drop-ins:
  file.directory:
    - name: /etc/systemd/journald.conf.d
    - mode: "0755"

chatmail journal in memory, for three days at most:
  file.managed:
    - name: /etc/systemd/journald.conf.d/chatmail.conf
    - source: salt://chatmail/host/files/journald.conf
    - mode: "0644"
    - require:
      - file: chatmail journal directory for drop-ins

# rsyslog would write the mail log to disk, with the addresses of clients.
chatmail rsyslog is removed:
  pkg.removed:
    - name: rsyslog

chatmail journal service:
  chatmail_service.running:
    - name: systemd-journald
    - watch:
      - file: chatmail journal in memory, for three days at most
