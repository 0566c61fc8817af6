{#- Restores resolv.conf and unbound as they were before. -#}
{% from "chatmail/host/backup.jinja" import ours %}

include:
  - chatmail.modules

chatmail other programs may write resolv.conf again:
  file.absent:
    - names:
      - /etc/NetworkManager/conf.d/chatmail.conf
      - /etc/dhcp/dhclient-enter-hooks.d/chatmail
      - /etc/dhcpcd.enter-hook

# If the old resolv.conf names systemd-resolved, systemd-resolved must answer again.
chatmail systemd-resolved runs again:
  chatmail_service.running:
    - name: systemd-resolved
    - onlyif:
      - fun: file.contains
        path: /var/backups/chatmail/etc/resolv.conf
        text: 127.0.0.53

chatmail original of /etc/resolv.conf is back:
  chatmail_original.restored:
    - name: /etc/resolv.conf
    - require:
      - chatmail_service: chatmail systemd-resolved runs again

chatmail resolver is stopped:
  chatmail_service.dead:
    - name: unbound
    - onlyif: {{ ours("/etc/unbound/unbound.conf") }}
    - require:
      - chatmail_original: chatmail original of /etc/resolv.conf is back

chatmail original of /etc/unbound/unbound.conf is back:
  chatmail_original.restored:
    - name: /etc/unbound/unbound.conf
    - require:
      - chatmail_service: chatmail resolver is stopped

chatmail drop-in of the resolver is gone:
  file.absent:
    - name: /etc/systemd/system/unbound.service.d/chatmail.conf
    - require:
      - chatmail_service: chatmail resolver is stopped

chatmail systemd forgets the drop-in of the resolver:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: chatmail drop-in of the resolver is gone
