{#- What all units of ours share, and the one state in which systemd reads changed units. Needs nothing. A part that
    writes a unit or a drop-in includes this .sls. Its state of the unit has `onchanges_in` with the state `chatmail
    systemd reads its units`, and its services require that state. -#}
include:
  - chatmail.host.ports

chatmail hardening of the services:
  file.managed:
    - name: /etc/systemd/system/chatmail-.service.d/hardening.conf
    - source: salt://chatmail/services/files/hardening.conf
    - mode: "0644"
    - makedirs: True

# Salt itself reloads systemd only for a unit that systemd reports as changed. systemd does not report a unit that
# another unit starts. On Debian 12, systemd does not report a drop-in in a new directory either.
chatmail systemd reads its units:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: chatmail hardening of the services
