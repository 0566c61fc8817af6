{#- The certificate of the ACME authority: gets the first one, and adds names that are missing in it. certbot's timer
    renews it. Needs nginx, which answers the authority on port 80, and the relay's names in DNS. -#}
{% from "chatmail/settings.jinja" import relay with context %}

{%- if relay.tls_mode == "acme" %}

include:
  - .account
  - .service
  - .self_signed
  - chatmail.nginx
  - chatmail.program

directory of the ACME challenges:
  file.directory:
    - name: /var/lib/chatmail/acme
    - mode: "0755"
    - makedirs: True
    - require:
      - sls: chatmail.host

# certbot writes this for certificates that it gets from now on. Those of releases up to 2026.11 lack it.
certbot keeps the key:
  file.replace:
    - name: /etc/letsencrypt/renewal/chatmail.conf
    - pattern: '^\[renewalparams\]\n(?!(?:.*\n)*reuse_key\b)'
    - repl: "[renewalparams]\nreuse_key = True\n"
    - backup: False
    - onlyif:
      - fun: file.file_exists
        path: /etc/letsencrypt/renewal/chatmail.conf

certificate of the authority:
  chatmail_certificate.acme:
    - name: {{ relay.tls_certificate }}
    - settings: {{ relay | json }}
    - require:
      - chatmail_certificate: account with the authority
      - file: directory of the ACME challenges
      - file: certbot keeps the key
      - file: program
      - service: nginx service

certbot's timer:
  service.running:
    - name: certbot.timer
    - enable: True
    - require:
      - pkg: certbot
{%- endif %}
