{#- No iroh relay of our own: it is stopped and removed. Needs nothing. -#}
iroh relay is stopped:
  service.dead:
    - name: chatmail-iroh
    - enable: False
    # Of a unit that is not there, a dry run would say that it may have to be stopped.
    - onlyif:
      - fun: file.file_exists
        path: /etc/systemd/system/chatmail-iroh.service

iroh relay is removed:
  file.absent:
    - names:
      - /etc/systemd/system/chatmail-iroh.service
      - /etc/chatmail/iroh-relay.toml
      - /usr/local/bin/iroh-relay
    - require:
      - service: iroh relay is stopped
