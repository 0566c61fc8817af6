{#- Stops other programs from writing resolv.conf: systemd-resolved, NetworkManager, dhclient and dhcpcd. Debian's
    resolvconf leaves a file alone that is not its own link, and systemd-networkd writes no resolv.conf. Needs nothing.
    -#}
include:
  - chatmail.host

chatmail systemd-resolved writes no resolv.conf:
  chatmail_service.dead:
    - name: systemd-resolved
    - require:
      - sls: chatmail.host

{% for manager, path, line in [
    ("NetworkManager", "/etc/NetworkManager/conf.d/chatmail.conf", "[main]\ndns=none"),
    ("dhclient", "/etc/dhcp/dhclient-enter-hooks.d/chatmail", "make_resolv_conf() { :; }"),
    ("dhcpcd", "/etc/dhcpcd.enter-hook", 'skip_hooks="$skip_hooks resolv.conf"'),
] %}
chatmail {{ manager }} writes no resolv.conf:
  file.managed:
    - name: {{ path }}
    - contents: {{ ("# Managed by the chatmail formula.\n" ~ line) | json }}
    - mode: "0644"
    - makedirs: True
    - require:
      - sls: chatmail.host
{% endfor %}

chatmail NetworkManager is reloaded:
  chatmail_service.reloaded:
    - name: NetworkManager
    - watch:
      - file: chatmail NetworkManager writes no resolv.conf
