{#- Restores resolv.conf and unbound as they were before. -#}
{% from "chatmail/host/backup.jinja" import original_is_back, ours %}

chatmail other programs may write resolv.conf again:
  file.absent:
    - names:
      - /etc/NetworkManager/conf.d/chatmail.conf
      - /etc/dhcp/dhclient-enter-hooks.d/chatmail
      - /etc/dhcpcd.enter-hook

# If the old resolv.conf names systemd-resolved, systemd-resolved must answer again.
chatmail systemd-resolved runs again:
  service.running:
    - name: systemd-resolved
    - enable: True
    - onlyif:
      - fun: file.contains
        path: /var/backups/chatmail/etc/resolv.conf
        text: 127.0.0.53

{{ original_is_back("/etc/resolv.conf", {"service": "chatmail systemd-resolved runs again"}) }}

chatmail resolver is stopped:
  service.dead:
    - name: unbound
    - enable: False
    - onlyif: {{ ours("/etc/unbound/unbound.conf") }}
    - require:
      - file: chatmail original of /etc/resolv.conf is back

{{ original_is_back("/etc/unbound/unbound.conf", {"service": "chatmail resolver is stopped"}) }}

chatmail drop-in of the resolver is gone:
  file.absent:
    - name: /etc/systemd/system/unbound.service.d/chatmail.conf
    - require:
      - service: chatmail resolver is stopped

chatmail systemd forgets the drop-in of the resolver:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: chatmail drop-in of the resolver is gone
