{#- Live IMAP clients are told of a message at once, not after half a second: a small object, compiled on this machine, is
    loaded into Dovecot's imap. Needs Dovecot's packages and the program. With `imap_notify: false`, imap runs as Debian
    ships it. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
{%- if not relay.imap_notify %}
  - .clean
{%- else %}
  - chatmail.packages
  - chatmail.dovecot.package
  - chatmail.program
  - chatmail.services.units

# A compiler of 1 MB. It needs no headers and no libraries for this.
chatmail compiler of imap_notify:
  chatmail_package.installed:
    - pkgs: [tcc]
    - require:
      - chatmail_package: chatmail packages of all parts

chatmail source of imap_notify:
  file.managed:
    - name: /usr/local/lib/chatmail/imap_notify/imap_notify.c
    - source: salt://chatmail/imap_notify/files/imap_notify.c
    - mode: "0644"
    - makedirs: True

# When this fails, Dovecot works without the object, so no other state requires it.
chatmail imap_notify is compiled:
  chatmail_command.run:
    - name: PYTHONPATH=/usr/local/lib/chatmail /usr/bin/python3 -m chatmaild.imap_notify
    - needed: "! sha256sum --check --status --strict /usr/local/lib/chatmail/imap_notify/checked"
    - require:
      - chatmail_package: chatmail compiler of imap_notify
      - chatmail_package: chatmail dovecot packages
      - file: chatmail source of imap_notify
      - file: chatmail program

{% for kind in ["service", "path"] %}
chatmail-imap-notify {{ kind }} unit:
  file.managed:
    - name: /etc/systemd/system/chatmail-imap-notify.{{ kind }}
    - source: salt://chatmail/imap_notify/files/chatmail-imap-notify.{{ kind }}
    - mode: "0644"
    - onchanges_in:
      - cmd: chatmail systemd reads its units
{% endfor %}

chatmail imap_notify is checked when Dovecot changes:
  chatmail_service.running:
    - name: chatmail-imap-notify.path
    - watch:
      - file: chatmail-imap-notify path unit
    - require:
      - cmd: chatmail systemd reads its units
      # An installation of Dovecot would start the program, which may not be there yet.
      - chatmail_package: chatmail dovecot packages
      - file: chatmail program
{%- endif %}
