{#- Postfix: takes mail from clients (465, 587, 443) and other relays (25), lets the filter check each message, and has
    the queue. Needs the filter (chatmail.services), Dovecot's sockets and the certificate. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% from "chatmail/host/backup.jinja" import kept_original %}

include:
  - .package
  - chatmail.resolver
  - chatmail.certificate
  - chatmail.services

{{ kept_original("/etc/postfix/main.cf", {"pkg": "postfix package"}) }}
{{ kept_original("/etc/postfix/master.cf", {"pkg": "postfix package"}) }}

{% for table in ["sender_is_login", "submission_header_checks", "delivery_header_checks", "command_filter"] %}
postfix table {{ table }}:
  file.managed:
    - name: /etc/postfix/{{ table }}
    - source: salt://chatmail/postfix/files/{{ table }}
    - mode: "0644"
    - require:
      - pkg: postfix package
    - watch_in:
      - service: postfix service
{% endfor %}

checker of postfix configurations:
  file.managed:
    - name: /usr/local/lib/chatmail/check-postfix
    - source: salt://chatmail/postfix/files/check-postfix
    - mode: "0755"
    - makedirs: True

postfix services:
  file.managed:
    - name: /etc/postfix/master.cf
    - source: salt://chatmail/postfix/files/master.cf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - check_cmd: /usr/local/lib/chatmail/check-postfix master.cf
    - require:
      - file: original of /etc/postfix/master.cf is kept
      - file: checker of postfix configurations

postfix main configuration:
  file.managed:
    - name: /etc/postfix/main.cf
    - source: salt://chatmail/postfix/files/main.cf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    # Refuses what Postfix would only warn about, such as a parameter that nothing here or in master.cf uses.
    - check_cmd: /usr/local/lib/chatmail/check-postfix main.cf
    - require:
      - file: original of /etc/postfix/main.cf is kept
      - file: postfix services

{% if relay.mail %}
postfix runs with these addresses and this resolver:
  service.running:
    - name: postfix
    - enable: True
    - watch:
      - file: postfix is started again after a crash
      # Postfix copies resolv.conf into its chroot when it starts.
      - file: resolv.conf names our resolver
    - require:
      - cmd: systemd reads its units
      - file: postfix main configuration
      - sls: chatmail.services

# A reload is enough for all of these files, and sessions do not notice it.
postfix service:
  service.running:
    - name: postfix
    - reload: True
    - watch:
      - chatmail_certificate: self-signed certificate
      - file: postfix main configuration
      - file: postfix services
    - require:
      - service: postfix runs with these addresses and this resolver
{%- else %}
# The queue stays as it is.
postfix service:
  service.dead:
    - name: postfix
    - enable: False
    - require:
      - file: postfix main configuration
{%- endif %}
