{#- Retention: old mail and unused addresses are removed every night, and a report is made four times a day. Needs the
    user of the mail and the settings file (chatmail.host), the program, and the hardening of the units
    (chatmail.services). Dovecot runs the same program when a mailbox is nearly full. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.host
  - chatmail.services

# Releases up to 2026.11 ran a copy of a Salt module.
copied retention program is gone:
  file.absent:
    - name: /usr/local/lib/chatmail/chatmail_expire.py

unit chatmail-expire:
  file.managed:
    - name: /etc/systemd/system/chatmail-expire.service
    - source: salt://chatmail/retention/files/chatmail-expire.service.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - onchanges_in:
      - cmd: systemd reads its units

unit chatmail-report:
  file.managed:
    - name: /etc/systemd/system/chatmail-report.service
    - source: salt://chatmail/retention/files/chatmail-report.service.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - onchanges_in:
      - cmd: systemd reads its units

{% for timer in ["expire", "report"] %}
schedule of chatmail-{{ timer }}:
  file.managed:
    - name: /etc/systemd/system/chatmail-{{ timer }}.timer
    - source: salt://chatmail/retention/files/chatmail-{{ timer }}.timer
    - mode: "0644"
    - onchanges_in:
      - cmd: systemd reads its units

timer chatmail-{{ timer }}:
  service.running:
    - name: chatmail-{{ timer }}.timer
    - enable: True
    - watch:
      - file: schedule of chatmail-{{ timer }}
    - require:
      - cmd: systemd reads its units
      - file: program
      - file: unit chatmail-{{ timer }}
      - file: hardening of the services
      - file: settings of the services
      - file: home of the mail
{% endfor %}
