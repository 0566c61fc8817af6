{#- Stops and removes the iroh relay. Needs nothing. -#}

include:
  - chatmail.modules

chatmail iroh relay is stopped:
  chatmail_service.dead:
    - name: chatmail-iroh

chatmail iroh relay is removed:
  file.absent:
    - names:
      - /etc/systemd/system/chatmail-iroh.service
      - /etc/chatmail/iroh-relay.toml
      - /usr/local/bin/iroh-relay
    - require:
      - chatmail_service: chatmail iroh relay is stopped
