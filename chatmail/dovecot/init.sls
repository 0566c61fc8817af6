{#- Dovecot: logins for IMAP and SMTP by Lua, delivery by LMTP, IMAP with hibernation. Needs the users (chatmail.host),
    the certificate, and Postfix's directory for the sockets between Dovecot and Postfix. chatmail-accounts
    (chatmail.services) creates new addresses; existing addresses work without it. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% from "chatmail/host/local_lines.jinja" import local_lines with context %}

include:
  - .package
  - chatmail.certificate
  - chatmail.postfix.package
  - chatmail.services.units

chatmail original of /etc/dovecot/dovecot.conf is kept:
  chatmail_original.kept:
    - name: /etc/dovecot/dovecot.conf
    - package: dovecot-core
    - require:
      - chatmail_package: chatmail dovecot packages

chatmail dovecot authentication script:
  file.managed:
    - name: /etc/dovecot/auth.lua
    - source: salt://chatmail/dovecot/files/auth.lua.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - require:
      - chatmail_package: chatmail dovecot packages

chatmail dovecot push script:
  file.managed:
    - name: /etc/dovecot/push.lua
    - source: salt://chatmail/dovecot/files/push.lua
    - mode: "0644"
    - require:
      - chatmail_package: chatmail dovecot packages

chatmail dovecot start with objects:
  file.managed:
    - names:
      - /usr/local/lib/chatmail/imap
      - /usr/local/lib/chatmail/imap-hibernate
      - /usr/local/lib/chatmail/imap-login
    - source: salt://chatmail/dovecot/files/with-object
    - mode: "0755"
    - makedirs: True

# 2.4 cannot read a configuration of 2.3, so there are two templates. Neither includes Debian's conf.d.
chatmail dovecot configuration:
  file.managed:
    - name: /etc/dovecot/dovecot.conf
    - source: salt://chatmail/dovecot/files/dovecot-{{ relay.dovecot_version }}.conf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
        local_lines: {{ local_lines("dovecot.conf") | json }}
    - mode: "0644"
    # Refuses an unknown setting or value before the file is in place.
    - check_cmd: /usr/local/lib/chatmail/check-configuration doveconf -n -c
    - require:
      - chatmail_original: chatmail original of /etc/dovecot/dovecot.conf is kept
      - file: chatmail checker of configurations
      - file: chatmail dovecot authentication script
      - file: chatmail dovecot push script
      - file: chatmail dovecot start with objects
      - sls: chatmail.certificate

{% if relay.mail %}
# A reload is enough for all of these files, and idle clients do not notice it. A restart would disconnect them.
chatmail dovecot service:
  chatmail_service.running:
    - name: dovecot
    - reload: True
    - watch:
      - file: chatmail dovecot configuration
      - file: chatmail dovecot authentication script
      - file: chatmail dovecot push script
      - chatmail_certificate: chatmail self-signed certificate
    - require:
      - cmd: chatmail systemd reads its units
      - sls: chatmail.postfix.package
{%- else %}
# This ends all sessions, too: during a move, no client may change a mailbox that is being copied.
chatmail dovecot service:
  chatmail_service.dead:
    - name: dovecot
    - require:
      - file: chatmail dovecot configuration
{%- endif %}
