{#- Ends the care for the certificate. The certificate itself goes only with `clean:purge`: a relay that comes back soon
    needs no new one. certbot's account and log stay with its configuration, unless purged. -#}
{% from "chatmail/settings.jinja" import relay with context %}

{% for unit in ["chatmail-certificate.path", "chatmail-certificate.timer"] %}
{{ unit }} is stopped:
  service.dead:
    - name: {{ unit }}
    - enable: False
    # A dry run would announce a change where it is gone already.
    - onlyif:
      - fun: service.available
        name: {{ unit }}
    - require_in:
      - file: care for the certificate is ended
{% endfor %}

care for the certificate is ended:
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
      - /etc/chatmail/tls
      - /etc/letsencrypt/live/chatmail
      - /etc/letsencrypt/archive/chatmail
      - /etc/letsencrypt/renewal/chatmail.conf
{%- endif %}
{%- if relay.tls_mode == "acme" %}

# Its timer would go on and ask for renewals that nobody answers for any more.
certbot is removed:
  pkg.removed:
    - pkgs: [certbot, python3-certbot-dns-rfc2136]
{%- endif %}
