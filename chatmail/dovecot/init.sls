{#- Dovecot: logins for IMAP and SMTP by Lua, delivery by LMTP, IMAP with hibernation. Needs the users (chatmail.host),
    the certificate, and Postfix's directory for the sockets between the two. New addresses are made by
    chatmail-accounts (chatmail.services); existing ones work without it. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% from "chatmail/host/backup.jinja" import kept_original %}

include:
  - chatmail.host
  - chatmail.certificate
  - chatmail.postfix.package

dovecot packages:
  pkg.installed:
    - pkgs: [dovecot-core, dovecot-imapd, dovecot-lmtpd, dovecot-auth-lua]
    - require:
      - sls: chatmail.host

{{ kept_original("/etc/dovecot/dovecot.conf", {"pkg": "dovecot packages"}) }}

dovecot logins and mailboxes:
  file.managed:
    - name: /etc/dovecot/auth.lua
    - source: salt://chatmail/dovecot/files/auth.lua.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - require:
      - pkg: dovecot packages

dovecot news of messages:
  file.managed:
    - name: /etc/dovecot/push.lua
    - source: salt://chatmail/dovecot/files/push.lua
    - mode: "0644"
    - require:
      - pkg: dovecot packages

# 2.4 reads no configuration of 2.3. Neither file includes Debian's conf.d.
dovecot configuration:
  file.managed:
    - name: /etc/dovecot/dovecot.conf
    - source: salt://chatmail/dovecot/files/dovecot-{{ relay.dovecot_version }}.conf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    # Refuses an unknown setting or value before it is in place.
    - check_cmd: doveconf -n -c
    - require:
      - file: original of /etc/dovecot/dovecot.conf is kept
      - file: dovecot logins and mailboxes
      - file: dovecot news of messages
      - sls: chatmail.certificate

# The stock unit leaves a crashed master process down.
dovecot is started again after a crash:
  file.managed:
    - name: /etc/systemd/system/dovecot.service.d/chatmail.conf
    - source: salt://chatmail/dovecot/files/restart.conf
    - mode: "0644"
    - makedirs: True

{% if relay.mail %}
# Everything here takes effect by a reload, which idling clients do not notice; a restart would drop them all.
dovecot service:
  service.running:
    - name: dovecot
    - enable: True
    - reload: True
    - watch:
      - file: dovecot configuration
      - file: dovecot logins and mailboxes
      - file: dovecot news of messages
      - file: dovecot is started again after a crash
      - chatmail_certificate: self-signed certificate
    - require:
      - pkg: postfix package
{%- else %}
# Ends the sessions that it has, too: in a move, nobody may change a mailbox that is being copied.
dovecot service:
  service.dead:
    - name: dovecot
    - enable: False
    - require:
      - file: dovecot configuration
{%- endif %}
