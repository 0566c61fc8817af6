{#- Stops coturn and removes its configuration and the iroh relay. The secret of TURN is a key, so only `clean:purge`
    removes it. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - .iroh_absent

{% set drop_ins = "/etc/systemd/system/coturn.service.d" %}

chatmail TURN service is stopped:
  chatmail_service.dead:
    - name: coturn
    - onlyif:
      - fun: file.directory_exists
        path: {{ drop_ins }}

chatmail TURN configuration is removed:
  file.absent:
    - names:
      - {{ drop_ins }}
      - /etc/chatmail/turnserver.conf
{%- if relay.clean.purge %}
      - /etc/chatmail/turn-secret
{%- endif %}
    - require:
      - chatmail_service: chatmail TURN service is stopped

chatmail systemd forgets the drop-ins of TURN:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: chatmail TURN configuration is removed
