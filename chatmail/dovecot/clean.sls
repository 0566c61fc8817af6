{#- Removes Dovecot and its configuration. The mail stays: it belongs to chatmail.host. -#}

dovecot is stopped:
  service.dead:
    - name: dovecot
    - enable: False

dovecot is removed:
  pkg.purged:
    - pkgs: [dovecot-auth-lua, dovecot-lmtpd, dovecot-imapd, dovecot-core]
    - require:
      - service: dovecot is stopped

configuration of dovecot is removed:
  file.absent:
    - names:
      - /etc/dovecot/dovecot.conf
      - /etc/dovecot/auth.lua
      - /etc/dovecot/push.lua
      - /etc/systemd/system/dovecot.service.d/chatmail.conf
    - require:
      - pkg: dovecot is removed
