{#- coturn: STUN and TURN on 3478/udp, with a secret that is made on this machine. Needs the configuration directory and
    the user vmail (chatmail.host), and the hardening (chatmail.services). The dict service, which runs as vmail, gives
    credentials to clients. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.host
  - chatmail.services

# Salt sees neither the secret nor a hash of it.
secret of TURN is made:
  cmd.run:
    - name: umask 077 && head -c 32 /dev/urandom | base64 > turn-secret.new && mv turn-secret.new turn-secret
    - cwd: /etc/chatmail
    - unless: test -s /etc/chatmail/turn-secret
    - require:
      - file: relay configuration directory

secret of TURN is readable for the dict service:
  file.managed:
    - name: /etc/chatmail/turn-secret
    - replace: False
    - show_changes: False
    - user: root
    - group: vmail
    - mode: "0640"
    - require:
      - cmd: secret of TURN is made
      - user: user of the mail

TURN configuration:
  file.managed:
    - name: /etc/chatmail/turnserver.conf
    - source: salt://chatmail/realtime/files/turnserver.conf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - require:
      - file: relay configuration directory

# This comes before the package, which starts the service at once. With Debian's configuration anybody could use it.
TURN unit reads our configuration:
  file.managed:
    - name: /etc/systemd/system/coturn.service.d/chatmail.conf
    - source: salt://chatmail/realtime/files/coturn.conf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - makedirs: True
    - onchanges_in:
      - cmd: systemd reads its units

hardening of the TURN unit:
  file.symlink:
    - name: /etc/systemd/system/coturn.service.d/hardening.conf
    - target: ../chatmail-.service.d/hardening.conf
    - require:
      - file: hardening of the services
      - file: TURN unit reads our configuration
    - onchanges_in:
      - cmd: systemd reads its units

TURN package:
  pkg.installed:
    - name: coturn
    - require:
      - file: TURN configuration
      - file: hardening of the TURN unit
      - file: secret of TURN is readable for the dict service

TURN service:
  service.running:
    - name: coturn
    - enable: True
    - require:
      - cmd: systemd reads its units
      - pkg: TURN package
    - watch:
      - cmd: secret of TURN is made
      - file: TURN configuration
      - file: TURN unit reads our configuration
      - file: hardening of the services
