{#- The relay's own validating resolver on 127.0.0.1, and a resolv.conf that names it and that other programs do not
    change. Needs nothing. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% from "chatmail/host/local_lines.jinja" import local_lines with context %}

include:
  - chatmail.packages
  - chatmail.host
  - chatmail.modules
  - chatmail.program
  - chatmail.services.units
  - .resolv_conf

# This file comes before the package, which enables the daemon: the machine may start again before our configuration is
# there.
chatmail resolver runs with our configuration alone:
  file.managed:
    - name: /etc/systemd/system/unbound.service.d/chatmail.conf
    - source: salt://chatmail/resolver/files/daemon.conf
    - mode: "0644"
    - makedirs: True
    - require:
      - sls: chatmail.host
    - onchanges_in:
      - cmd: chatmail systemd reads its units
    - require_in:
      - chatmail_package: chatmail packages of all parts

chatmail resolver packages:
  chatmail_package.installed:
    - pkgs: [unbound, dns-root-data]
    - require:
      - chatmail_package: chatmail packages of all parts
      - file: chatmail resolver runs with our configuration alone

# The unit makes this file when it first starts, and the check of the configuration wants it before. unbound then keeps
# it up to date (RFC 5011).
chatmail resolver has the root's key:
  chatmail_command.run:
    - name: install -o unbound -g unbound -m 644 /usr/share/dns/root.key /var/lib/unbound/root.key
    - needed: test ! -e /var/lib/unbound/root.key
    - require:
      - chatmail_package: chatmail resolver packages

chatmail original of /etc/unbound/unbound.conf is kept:
  chatmail_original.kept:
    - name: /etc/unbound/unbound.conf
    - package: unbound
    - require:
      - chatmail_package: chatmail resolver packages

chatmail resolver configuration:
  file.managed:
    - name: /etc/unbound/unbound.conf
    - source: salt://chatmail/resolver/files/unbound.conf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
        local_lines: {{ local_lines("unbound.conf") | json }}
    - mode: "0644"
    - check_cmd: /usr/local/lib/chatmail/check-configuration unbound-checkconf
    - require:
      - chatmail_original: chatmail original of /etc/unbound/unbound.conf is kept
      - file: chatmail checker of configurations
      - chatmail_command: chatmail resolver has the root's key

chatmail resolver service:
  chatmail_service.running:
    - name: unbound
    - watch:
      - file: chatmail resolver configuration
    - require:
      - cmd: chatmail systemd reads its units

# A minion that no longer finds its master takes no more orders. So resolv.conf stays as it is when this state fails.
chatmail resolver finds the Salt master:
  chatmail_relay.master_found:
    - name: chatmail
    - search: {{ relay.search_domains | json }}
    - require:
      - chatmail_service: chatmail resolver service
      - file: chatmail program
    - require_in:
      - sls: chatmail.resolver.resolv_conf

chatmail original of /etc/resolv.conf is kept:
  chatmail_original.kept:
    - name: /etc/resolv.conf
    - require:
      - chatmail_service: chatmail resolver service

# If resolv.conf is a symbolic link, our file replaces the link. The target of the link belongs to another program.
chatmail resolv.conf names our resolver:
  file.managed:
    - name: /etc/resolv.conf
    - contents:
      - "# Managed by the chatmail formula."
      - "nameserver 127.0.0.1"
{%- if relay.search_domains %}
      - "search {{ relay.search_domains | join(" ") }}"
{%- endif %}
      - "options edns0 trust-ad"
    - mode: "0644"
    - follow_symlinks: False
    - require:
      - chatmail_original: chatmail original of /etc/resolv.conf is kept
      - sls: chatmail.resolver.resolv_conf
