{#- Dovecot as Debian ships it. Needs the users (chatmail.host). -#}
include:
  - chatmail.packages
  - chatmail.host
  - chatmail.services.units

# The stock unit does not restart a crashed master process. This file comes before the package, which enables the
# daemon: the machine may start again before our configuration is there.
chatmail dovecot is started again after a crash:
  file.managed:
    - name: /etc/systemd/system/dovecot.service.d/chatmail.conf
    - source: salt://chatmail/dovecot/files/restart.conf
    - mode: "0644"
    - makedirs: True
    - require:
      - sls: chatmail.host
    - onchanges_in:
      - cmd: chatmail systemd reads its units
    - require_in:
      - chatmail_package: chatmail packages of all parts

chatmail dovecot packages:
  chatmail_package.installed:
    - pkgs: [dovecot-core, dovecot-imapd, dovecot-lmtpd, dovecot-auth-lua]
    - require:
      - chatmail_package: chatmail packages of all parts
      - file: chatmail dovecot is started again after a crash
