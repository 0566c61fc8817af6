{#- The service that takes a certificate into use without Salt: once a day, as certbot's deploy hook, and when the
    operator's files change. Needs the program and the settings file (chatmail.host). -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% set deploy_hook = "/usr/bin/env PYTHONPATH=/usr/local/lib/chatmail /usr/bin/python3 -m chatmaild.certificate deploy" %}

include:
  - chatmail.modules
  - chatmail.host
  - chatmail.program
  - chatmail.services.units

# Releases up to 2026.11 ran a copy of a Salt module. Certificates from that time have the copy as their deploy hook.
chatmail certbot hook is the program:
  chatmail_command.run:
    - name: |
        sed -i 's|^renew_hook = .*/chatmail_certificate\.py deploy$|renew_hook = {{ deploy_hook }}|' \
          /etc/letsencrypt/renewal/chatmail.conf
    - needed: grep -qs '/chatmail_certificate\.py deploy$' /etc/letsencrypt/renewal/chatmail.conf
    - require:
      - file: chatmail program

chatmail copied certificate program is gone:
  file.absent:
    - name: /usr/local/lib/chatmail/chatmail_certificate.py
    - require:
      - chatmail_command: chatmail certbot hook is the program
      - file: chatmail-certificate unit

chatmail-certificate unit:
  file.managed:
    - name: /etc/systemd/system/chatmail-certificate.service
    - source: salt://chatmail/certificate/files/chatmail-certificate.service
    - mode: "0644"
    - onchanges_in:
      - cmd: chatmail systemd reads its units

chatmail-certificate hardening:
  file.managed:
    - name: /etc/systemd/system/chatmail-certificate.service.d/hardening.conf
    - source: salt://chatmail/certificate/files/hardening.conf
    - mode: "0644"
    - makedirs: True
    - onchanges_in:
      - cmd: chatmail systemd reads its units

chatmail-certificate timer:
  file.managed:
    - name: /etc/systemd/system/chatmail-certificate.timer
    - source: salt://chatmail/certificate/files/chatmail-certificate.timer
    - mode: "0644"
    - onchanges_in:
      - cmd: chatmail systemd reads its units
  chatmail_service.running:
    - name: chatmail-certificate.timer
    - watch:
      - file: chatmail-certificate timer
    - require:
      - cmd: chatmail systemd reads its units
      - file: chatmail program
      - file: chatmail-certificate unit
