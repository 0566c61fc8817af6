{#- The certificate that all daemons read from /etc/chatmail/tls. Needs the program. A self-signed one comes first, so that
    everything can start; relays with a test domain or an address for a name keep it. The operator's files take its
    place here; what an ACME authority issues does so in chatmail.certificate.acme, for which nginx must run. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - .self_signed
{%- if relay.tls_mode == "external" %}
  - .external
{%- endif %}
