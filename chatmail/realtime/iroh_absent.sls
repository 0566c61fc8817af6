{#- Stops and removes the iroh relay. Needs nothing. -#}
chatmail iroh relay is stopped:
  service.dead:
    - name: chatmail-iroh
    - enable: False
    # For a unit that does not exist, a dry run would say that it may have to be stopped.
    - onlyif:
      - fun: file.file_exists
        path: /etc/systemd/system/chatmail-iroh.service

# service.dead does not stop a unit that has failed and waits for its next start.
chatmail iroh relay that fails again and again is stopped:
  cmd.run:
    - name: systemctl stop chatmail-iroh
    - onlyif: systemctl is-active chatmail-iroh | grep -qx activating

chatmail iroh relay is removed:
  file.absent:
    - names:
      - /etc/systemd/system/chatmail-iroh.service
      - /etc/chatmail/iroh-relay.toml
      - /usr/local/bin/iroh-relay
    - require:
      - service: chatmail iroh relay is stopped
      - cmd: chatmail iroh relay that fails again and again is stopped
