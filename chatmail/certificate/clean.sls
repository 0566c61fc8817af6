{#- Removes what renews and watches the certificate. Only `clean:purge` removes the certificate itself, so a relay that
    is set up again needs no new one. certbot, its account and its log stay, because the machine may have other
    certificates. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules

{% for unit in ["chatmail-certificate.path", "chatmail-certificate.timer"] %}
{{ unit }} is stopped:
  chatmail_service.dead:
    - name: {{ unit }}
    - require_in:
      - file: chatmail certificate program and its units are gone
{% endfor %}

chatmail certificate program and its units are gone:
  file.absent:
    - names:
      - /etc/systemd/system/chatmail-certificate.path
      - /etc/systemd/system/chatmail-certificate.timer
      - /etc/systemd/system/chatmail-certificate.service
      - /etc/systemd/system/chatmail-certificate.service.d
      - /usr/local/lib/chatmail/chatmail_certificate.py
      - /etc/chatmail/rfc2136.ini
      - /var/lib/chatmail/acme
      - /var/lib/chatmail/certificate.json
{%- if relay.clean.purge %}
      - /var/backups/chatmail/etc/letsencrypt
      - /etc/chatmail/tls
      - /etc/letsencrypt/live/chatmail
      - /etc/letsencrypt/archive/chatmail
      - /etc/letsencrypt/renewal/chatmail.conf
{%- endif %}
{%- if not relay.clean.purge %}

# certbot's timer would ask for renewals, and nothing would answer the challenges.
chatmail certbot renews our certificate no longer:
  file.rename:
    - name: /var/backups/chatmail/etc/letsencrypt/renewal/chatmail.conf
    - source: /etc/letsencrypt/renewal/chatmail.conf
    - makedirs: True
    - force: True
    - onlyif:
      - fun: file.file_exists
        path: /etc/letsencrypt/renewal/chatmail.conf
{%- endif %}
