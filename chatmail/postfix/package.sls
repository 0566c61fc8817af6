{#- Postfix as Debian ships it, and the directories for the sockets of our services. These are below Postfix's own
    directory, because most of its daemons run in a chroot there. Needs the users (chatmail.host). -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.packages
  - chatmail.host
  - chatmail.services.units

# Stock units do not restart a crashed master(8). This file comes before the package, which enables the daemon: the
# machine may start again before our configuration is there.
chatmail postfix is started again after a crash:
  file.managed:
    # On Debian 12 the unit of Postfix is an instance of a template.
    - name: /etc/systemd/system/{{ "postfix@-" if relay.debian_release == 12 else "postfix" }}.service.d/chatmail.conf
    - source: salt://chatmail/postfix/files/restart.conf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - makedirs: True
    - require:
      - sls: chatmail.host
    - onchanges_in:
      - cmd: chatmail systemd reads its units
    - require_in:
      - chatmail_package: chatmail packages of all parts

# Debian's package would write a main.cf and then ask Postfix for its values. Postfix reads a file only when it has not
# changed for two seconds, so the package would take six seconds longer. It leaves a main.cf alone that is there before
# it. `clean` gives this one back, which takes no mail from other machines. The package makes no /etc/aliases then, so
# local mail must not ask for it.
chatmail postfix has a configuration before its package:
  chatmail_command.run:
    - name: |
        mkdir -p /etc/postfix && printf '%s\n' 'inet_interfaces = loopback-only' 'alias_maps =' > /etc/postfix/main.cf
    - needed: test ! -e /etc/postfix/main.cf && test ! -e /var/lib/dpkg/info/postfix.list
    - require_in:
      - chatmail_package: chatmail packages of all parts

chatmail postfix package:
  chatmail_package.installed:
    - pkgs: [postfix]
    - require:
      - chatmail_package: chatmail packages of all parts
      - file: chatmail postfix is started again after a crash
{%- if relay.debian_release > 12 %}

# Postfix makes this directory when it first starts. Dovecot starts earlier and puts its sockets there. On Debian 12 the
# package makes the directory.
chatmail directory of the private sockets of postfix:
  file.directory:
    - name: /var/spool/postfix/private
    - user: postfix
    - group: root
    - mode: "0700"
    - require:
      - chatmail_package: chatmail postfix package
{%- endif %}

# The sockets inherit the group of the directories, so only Postfix can connect.
chatmail directory of the filter's sockets:
  file.directory:
    - name: /var/spool/postfix/chatmail
    - user: chatmail-filter
    - group: postfix
    - mode: "2750"
    - require:
      - chatmail_package: chatmail postfix package

chatmail directory of the transport's socket:
  file.directory:
    - name: /var/spool/postfix/chatmail-transport
    - user: chatmail-transport
    - group: postfix
    - mode: "2750"
    - require:
      - chatmail_package: chatmail postfix package
