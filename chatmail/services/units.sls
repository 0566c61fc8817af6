{#- What all units of ours share, and the one state in which systemd reads changed units. Needs nothing. A part that
    writes a unit or a drop-in includes this file and adds the file to that state's `onchanges`; its services require
    that state. -#}
include:
  - chatmail.host.ports

chatmail hardening of the services:
  file.managed:
    - name: /etc/systemd/system/chatmail-.service.d/hardening.conf
    - source: salt://chatmail/services/files/hardening.conf
    - mode: "0644"
    - makedirs: True

# Salt does so only for units of which systemd itself says that they changed. It says nothing of a unit that another one
# starts, and the systemd of Debian 12 nothing of a drop-in in a new directory.
chatmail systemd reads its units:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: chatmail hardening of the services
