{#- The program that takes a certificate into use without Salt: once a day, as certbot's deploy hook, and when the
    operator's files change. Needs the settings file (chatmail.host). -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules
  - chatmail.host

library of the certificate program:
  pkg.installed:
    - pkgs: [python3, python3-cryptography]
    - require:
      - sls: chatmail.host

# The very file that Salt loads as the module chatmail_certificate.
certificate program:
  file.managed:
    - name: /usr/local/lib/chatmail/chatmail_certificate.py
    - source: salt://_modules/chatmail_certificate.py
    - mode: "0755"
    - makedirs: True
    - require:
      - pkg: library of the certificate program

unit chatmail-certificate:
  file.managed:
    - name: /etc/systemd/system/chatmail-certificate.service
    - source: salt://chatmail/certificate/files/chatmail-certificate.service
    - mode: "0644"

hardening of chatmail-certificate:
  file.managed:
    - name: /etc/systemd/system/chatmail-certificate.service.d/hardening.conf
    - source: salt://chatmail/certificate/files/hardening.conf
    - mode: "0644"
    - makedirs: True

# Salt reloads systemd for units that it starts itself. The timer starts this unit.
systemd knows the unit chatmail-certificate:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: unit chatmail-certificate
      - file: hardening of chatmail-certificate

timer chatmail-certificate:
  file.managed:
    - name: /etc/systemd/system/chatmail-certificate.timer
    - source: salt://chatmail/certificate/files/chatmail-certificate.timer
    - mode: "0644"
  service.running:
    - name: chatmail-certificate.timer
    - enable: True
    - watch:
      - file: timer chatmail-certificate
    - require:
      - file: certificate program
      - file: unit chatmail-certificate
