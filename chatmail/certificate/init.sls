{#- The certificate that all daemons read from /etc/chatmail/tls. Needs the program. A self-signed certificate comes
    first, so that all daemons can start. Relays with a test domain or without a domain keep it. The operator's files
    replace it here. A certificate of an ACME authority replaces it in chatmail.certificate.acme, which needs nginx to
    run. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - .self_signed
{%- if relay.tls_mode == "external" %}
  - .external
{%- endif %}
