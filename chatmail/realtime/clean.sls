{#- Removes coturn and the iroh relay. The secret of TURN is a key, so only `clean:purge` removes it. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - .iroh_absent

chatmail TURN package is removed:
  pkg.purged:
    - name: coturn

chatmail TURN configuration is removed:
  file.absent:
    - names:
      - /etc/systemd/system/coturn.service.d
      - /etc/chatmail/turnserver.conf
{%- if relay.clean.purge %}
      - /etc/chatmail/turn-secret
{%- endif %}
    - require:
      - pkg: chatmail TURN package is removed
