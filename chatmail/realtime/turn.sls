{#- coturn: STUN and TURN on 3478/udp, with a secret that is made on this machine. Needs the configuration directory and
    the user vmail (chatmail.host), and the hardening (chatmail.services). chatmail-accounts, which runs as vmail, makes
    the credentials of clients from the secret. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.packages
  - chatmail.host
  - chatmail.services

# Salt sees neither the secret nor a hash of it.
chatmail secret of TURN is made:
  chatmail_command.run:
    - name: |
        cd /etc/chatmail && umask 077 && head -c 32 /dev/urandom | base64 > turn-secret.new &&
        mv turn-secret.new turn-secret
    - needed: test ! -s /etc/chatmail/turn-secret
    - require:
      - file: chatmail relay configuration directory

chatmail secret of TURN is readable for chatmail-accounts:
  file.managed:
    - name: /etc/chatmail/turn-secret
    - replace: False
    - show_changes: False
    - user: root
    - group: vmail
    - mode: "0640"
    - require:
      - chatmail_command: chatmail secret of TURN is made
      - user: chatmail user of the mail
    - require_in:
      - chatmail_package: chatmail packages of all parts

chatmail TURN configuration:
  file.managed:
    - name: /etc/chatmail/turnserver.conf
    - source: salt://chatmail/realtime/files/turnserver.conf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - require:
      - file: chatmail relay configuration directory
    - require_in:
      - chatmail_package: chatmail packages of all parts

# This comes before the package, which starts the service at once. With Debian's configuration anybody could use it.
chatmail TURN unit reads our configuration:
  file.managed:
    - name: /etc/systemd/system/coturn.service.d/chatmail.conf
    - source: salt://chatmail/realtime/files/coturn.conf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - makedirs: True
    - onchanges_in:
      - cmd: chatmail systemd reads its units

chatmail hardening of the TURN unit:
  file.symlink:
    - name: /etc/systemd/system/coturn.service.d/hardening.conf
    - target: ../chatmail-.service.d/hardening.conf
    - require:
      - file: chatmail hardening of the services
      - file: chatmail TURN unit reads our configuration
    - onchanges_in:
      - cmd: chatmail systemd reads its units
    - require_in:
      - chatmail_package: chatmail packages of all parts

chatmail TURN package:
  chatmail_package.installed:
    - pkgs: [coturn]
    - require:
      - chatmail_package: chatmail packages of all parts
      - file: chatmail TURN configuration
      - file: chatmail hardening of the TURN unit
      - file: chatmail secret of TURN is readable for chatmail-accounts

chatmail TURN service:
  chatmail_service.running:
    - name: coturn
    - require:
      - cmd: chatmail systemd reads its units
      - chatmail_package: chatmail TURN package
    - watch:
      - chatmail_command: chatmail secret of TURN is made
      - file: chatmail TURN configuration
      - file: chatmail TURN unit reads our configuration
      - file: chatmail hardening of the services
