{#- Retention: old mail and unused addresses are removed every night, and a report is made four times a day. Needs the
    user of the mail and the settings file (chatmail.host), the program, and the hardening of the units
    (chatmail.services). Dovecot runs the same program when a mailbox is nearly full. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.host
  - chatmail.services

# Releases up to 2026.11 ran a copy of a Salt module.
chatmail copied retention program is gone:
  file.absent:
    - name: /usr/local/lib/chatmail/chatmail_expire.py

chatmail-expire unit:
  file.managed:
    - name: /etc/systemd/system/chatmail-expire.service
    - source: salt://chatmail/retention/files/chatmail-expire.service.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - onchanges_in:
      - cmd: chatmail systemd reads its units

chatmail-report unit:
  file.managed:
    - name: /etc/systemd/system/chatmail-report.service
    - source: salt://chatmail/retention/files/chatmail-report.service.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - onchanges_in:
      - cmd: chatmail systemd reads its units

{% for timer in ["expire", "report"] %}
chatmail-{{ timer }} schedule:
  file.managed:
    - name: /etc/systemd/system/chatmail-{{ timer }}.timer
    - source: salt://chatmail/retention/files/chatmail-{{ timer }}.timer
    - mode: "0644"
    - onchanges_in:
      - cmd: chatmail systemd reads its units

chatmail-{{ timer }} timer:
  chatmail_service.running:
    - name: chatmail-{{ timer }}.timer
    - watch:
      - file: chatmail-{{ timer }} schedule
    - require:
      - cmd: chatmail systemd reads its units
      - file: chatmail program
      - file: chatmail-{{ timer }} unit
      - file: chatmail hardening of the services
      - file: chatmail settings of the services
      - file: chatmail home of the mail
{% endfor %}
