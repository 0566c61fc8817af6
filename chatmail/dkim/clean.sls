{#- Removes the signing keys, if `clean:purge` says so; without it a relay that comes back signs with the same keys. -#}
{% from "chatmail/settings.jinja" import relay with context %}

{%- if relay.clean.purge %}
no signing keys:
  file.absent:
    - name: /etc/chatmail/dkim
{%- endif %}
