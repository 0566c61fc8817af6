{#- Postfix: takes mail from clients (465, 587, 443) and other relays (25), lets the filter check each message, and has
    the queue. Needs the filter (chatmail.services), Dovecot's sockets and the certificate. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% from "chatmail/host/local_lines.jinja" import local_lines with context %}

include:
  - .package
  - chatmail.resolver
  - chatmail.certificate
  - chatmail.services

chatmail original of /etc/postfix/main.cf is kept:
  chatmail_original.kept:
    - name: /etc/postfix/main.cf
    - package: postfix
    - require:
      - chatmail_package: chatmail postfix package
chatmail original of /etc/postfix/master.cf is kept:
  chatmail_original.kept:
    - name: /etc/postfix/master.cf
    - package: postfix
    - require:
      - chatmail_package: chatmail postfix package

{% for table in ["sender_is_login", "submission_header_checks", "delivery_header_checks", "command_filter"] %}
chatmail postfix table {{ table }}:
  file.managed:
    - name: /etc/postfix/{{ table }}
    - source: salt://chatmail/postfix/files/{{ table }}
    - mode: "0644"
    - require:
      - chatmail_package: chatmail postfix package
    - watch_in:
      - chatmail_service: chatmail postfix service
{% endfor %}

chatmail checker of postfix configurations:
  file.managed:
    - name: /usr/local/lib/chatmail/check-postfix
    - source: salt://chatmail/postfix/files/check-postfix
    - mode: "0755"
    - makedirs: True

chatmail postfix sends at once:
  file.managed:
    - name: /usr/local/lib/chatmail/send-at-once
    - source: salt://chatmail/postfix/files/send-at-once
    - mode: "0755"
    - makedirs: True

chatmail postfix services:
  file.managed:
    - name: /etc/postfix/master.cf
    - source: salt://chatmail/postfix/files/master.cf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
        local_lines: {{ local_lines("master.cf") | json }}
    - mode: "0644"
    - check_cmd: /usr/local/lib/chatmail/check-configuration /usr/local/lib/chatmail/check-postfix master.cf
    - require:
      - chatmail_original: chatmail original of /etc/postfix/master.cf is kept
      - file: chatmail checker of configurations
      - file: chatmail checker of postfix configurations

chatmail postfix main configuration:
  file.managed:
    - name: /etc/postfix/main.cf
    - source: salt://chatmail/postfix/files/main.cf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
        local_lines: {{ local_lines("main.cf") | json }}
    - mode: "0644"
    # Refuses what Postfix would only warn about, such as a parameter that nothing here or in master.cf uses.
    - check_cmd: /usr/local/lib/chatmail/check-configuration /usr/local/lib/chatmail/check-postfix main.cf
    - require:
      - chatmail_original: chatmail original of /etc/postfix/main.cf is kept
      - file: chatmail postfix services

{% if relay.debian_release > 12 %}
# Debian 12's unit for Postfix survives an upgrade of the machine to Debian 13. The new unit conflicts with it: systemd
# refuses to restart the new unit while the old one is active, and the old programs would run until a reboot.
chatmail unit of Debian 12 for postfix is stopped:
  chatmail_service.dead:
    - name: postfix@-
{%- if relay.mail %}
    - watch_in:
      - chatmail_service: chatmail postfix runs with these addresses and this resolver
{%- endif %}

# The stop command of that unit looks for a configuration that is gone. So systemd calls the unit failed, although all
# its processes have ended.
chatmail failure of the unit of Debian 12 for postfix is forgotten:
  chatmail_command.run:
    - name: systemctl reset-failed postfix@-.service
    - needed: systemctl is-failed --quiet postfix@-.service
    - require:
      - chatmail_service: chatmail unit of Debian 12 for postfix is stopped

chatmail drop-in of Debian 12 for postfix is gone:
  file.absent:
    - name: /etc/systemd/system/postfix@-.service.d/chatmail.conf
{% endif %}

{% if relay.mail %}
chatmail postfix runs with these addresses and this resolver:
  chatmail_service.running:
    - name: postfix
    - watch:
      - file: chatmail postfix is started again after a crash
      - file: chatmail postfix sends at once
      # Postfix copies resolv.conf into its chroot when it starts.
      - file: chatmail resolv.conf names our resolver
    - require:
      - cmd: chatmail systemd reads its units
      - file: chatmail postfix main configuration
      - sls: chatmail.services
{%- if relay.debian_release == 12 %}

# On Debian 12 an instance is Postfix. postfix.service is active without it, as after a converge that was interrupted.
# Where postfix.service was not active, its start has started the instance.
chatmail postfix instance of Debian 12 runs:
  chatmail_command.run:
    - name: systemctl start postfix@-
    - needed: systemctl is-active --quiet postfix && ! systemctl is-active --quiet postfix@-
    - require:
      - chatmail_service: chatmail postfix runs with these addresses and this resolver
{%- endif %}

# A reload is enough for all of these files, and sessions do not notice it.
chatmail postfix service:
  chatmail_service.reloaded:
    - name: postfix
    - watch:
      - chatmail_certificate: chatmail self-signed certificate
      - file: chatmail postfix main configuration
      - file: chatmail postfix services
    - require:
      - chatmail_service: chatmail postfix runs with these addresses and this resolver
{%- else %}
# The queue stays as it is.
chatmail postfix service:
  chatmail_service.dead:
    - name: postfix
    - require:
      - file: chatmail postfix main configuration
{%- endif %}
