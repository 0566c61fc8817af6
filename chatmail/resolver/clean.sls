{#- Gives resolv.conf back as it was, and takes the resolver away. -#}
{% set original = "/var/backups/chatmail/etc/resolv.conf" %}
other programs may write resolv.conf again:
  file.absent:
    - names:
      - /etc/NetworkManager/conf.d/chatmail.conf
      - /etc/dhcp/dhclient-enter-hooks.d/chatmail
      - /etc/dhcpcd.enter-hook

# First the old one: without a resolver, nothing after this could fetch anything.
resolv.conf is the old one:
  file.copy:
    - name: /etc/resolv.conf
    - source: {{ original }}
    - force: True
    - preserve: True
    - onlyif:
      - fun: file.file_exists
        path: {{ original }}
      - fun: file.contains
        path: /etc/resolv.conf
        text: Managed by the chatmail formula

resolver is removed:
  pkg.purged:
    - name: unbound
    - require:
      - file: resolv.conf is the old one

configuration of the resolver is removed:
  file.absent:
    - name: /etc/unbound/unbound.conf
    - require:
      - pkg: resolver is removed
