{#- Postfix as Debian ships it, and the directories for the sockets of our services. These are below Postfix's own
    directory, because most of its daemons run in a chroot there. Needs the users (chatmail.host). -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.packages
  - chatmail.host
  - chatmail.services.units

# Stock units do not restart a crashed master(8). This file comes before the package, which would start the daemon at
# once, with Debian's configuration.
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
