{#- certbot, and the account at the ACME authority. Needs the resolver. It comes before chatmail.dns, whose CAA record
    names the account. Relays without an ACME certificate have neither certbot nor an account. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.packages
  - chatmail.modules
  - chatmail.program
  - chatmail.resolver

{%- if relay.tls_mode == "acme" %}

chatmail certbot packages:
  chatmail_package.installed:
    - pkgs: [certbot, python3-certbot-dns-rfc2136]
    - require:
      - chatmail_package: chatmail packages of all parts
      - sls: chatmail.resolver
{#- A machine to which a relay moves gets the account of the old machine. #}
{%- if relay.in_service %}

chatmail account with the authority:
  chatmail_certificate.acme_account:
    - name: {{ relay.acme_directory }}
    - settings: {{ relay | json }}
    - require:
      - chatmail_package: chatmail certbot packages
      - file: chatmail program
{%- endif %}
{%- endif %}
