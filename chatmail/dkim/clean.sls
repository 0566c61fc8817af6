{#- Removes the signing keys if `clean:purge` is true. Otherwise a relay that is set up again signs with the same keys.
    -#}
{% from "chatmail/settings.jinja" import relay with context %}

{%- if relay.clean.purge %}
chatmail signing keys are gone:
  file.absent:
    - name: /etc/chatmail/dkim
{%- else %}
chatmail signing keys stay:
  test.nop: []
{%- endif %}
