{#- The certificate of the ACME authority: gets the first one, and adds names that are missing in it. certbot's timer
    renews it. Needs nginx, which answers the authority on port 80, and the relay's names in DNS. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.certificate
{%- if relay.tls_mode == "acme" %}
  - .account
  - .service
  - chatmail.nginx

chatmail directory of the ACME challenges:
  file.directory:
    - name: /var/lib/chatmail/acme
    - mode: "0755"
    - makedirs: True
    - require:
      - sls: chatmail.host

# chatmail.certificate.clean moves this file away, so that certbot does not renew.
chatmail certbot renews our certificate again:
  file.rename:
    - name: /etc/letsencrypt/renewal/chatmail.conf
    - source: /var/backups/chatmail/etc/letsencrypt/renewal/chatmail.conf
    - makedirs: True

# certbot writes this line for new certificates. Releases up to 2026.11 did not ask for it.
chatmail certbot keeps the key:
  chatmail_command.run:
    - name: sed -i 's/^\[renewalparams\]$/&\nreuse_key = True/' /etc/letsencrypt/renewal/chatmail.conf
    - needed: cd /etc/letsencrypt/renewal && test -e chatmail.conf && ! grep -q '^reuse_key' chatmail.conf
    - require:
      - file: chatmail certbot renews our certificate again

{%- if relay.in_service %}

chatmail certificate of the authority:
  chatmail_certificate.acme:
    - name: {{ relay.tls_certificate }}
    - settings: {{ relay | json }}
    - require:
      - chatmail_certificate: chatmail account with the authority
      - chatmail_command: chatmail certbot keeps the key
      - file: chatmail directory of the ACME challenges
      - file: chatmail program
      - chatmail_service: chatmail nginx service
{%- endif %}

chatmail certbot timer:
  chatmail_service.running:
    - name: certbot.timer
    - require:
      - chatmail_package: chatmail certbot packages
{%- endif %}
