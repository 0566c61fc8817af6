{#- The relay's own validating resolver on 127.0.0.1, and a resolv.conf that stays ours. Needs nothing. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% from "chatmail/host/backup.jinja" import kept_original %}

include:
  - chatmail.host

resolver packages:
  pkg.installed:
    - pkgs: [unbound, dns-root-data]
    - require:
      - sls: chatmail.host

{{ kept_original("/etc/unbound/unbound.conf", {"pkg": "resolver packages"}) }}

resolver configuration:
  file.managed:
    - name: /etc/unbound/unbound.conf
    - source: salt://chatmail/resolver/files/unbound.conf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - check_cmd: unbound-checkconf
    - require:
      - file: original of /etc/unbound/unbound.conf is kept

resolver service:
  service.running:
    - name: unbound
    - enable: True
    - watch:
      - file: resolver configuration

{{ kept_original("/etc/resolv.conf", {"service": "resolver service"}) }}

# Whoever else writes resolv.conf is told not to, before ours takes its place.
{% for manager in ["systemd-resolved", "resolvconf"] %}
{{ manager }} writes no resolv.conf:
  service.dead:
    - name: {{ manager }}
    - enable: False
    - require:
      - service: resolver service
    - require_in:
      - file: resolv.conf names our resolver
{% endfor %}

NetworkManager writes no resolv.conf:
  file.managed:
    - name: /etc/NetworkManager/conf.d/chatmail.conf
    - contents:
      - "# Managed by the chatmail formula."
      - "[main]"
      - "dns=none"
    - mode: "0644"
    - makedirs: True

dhclient writes no resolv.conf:
  file.managed:
    - name: /etc/dhcp/dhclient-enter-hooks.d/chatmail
    - contents:
      - "# Managed by the chatmail formula."
      - "make_resolv_conf() { :; }"
    - mode: "0755"
    - makedirs: True

resolv.conf names our resolver:
  file.managed:
    - name: /etc/resolv.conf
    - contents:
      - "# Managed by the chatmail formula."
      - "nameserver 127.0.0.1"
      - "options edns0 trust-ad"
    - mode: "0644"
    - follow_symlinks: False
    - require:
      - file: original of /etc/resolv.conf is kept
