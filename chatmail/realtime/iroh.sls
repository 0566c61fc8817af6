{#- The iroh relay, where clients meet for realtime channels: a program from a URL, checked by its digest. Needs the
    configuration directory (chatmail.host), the hardening (chatmail.services) and the routes of chatmail.nginx. No
    other part needs this one: when the download fails, only this part fails, and the rest of the relay works. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules
  - chatmail.host
  - chatmail.services

iroh relay program:
  chatmail_binary.downloaded:
    - name: /usr/local/bin/iroh-relay
    - source: {{ relay.iroh_binary.url | json }}
    - sha256: {{ relay.iroh_binary.sha256 | json }}
    - require:
      - sls: chatmail.host

iroh relay configuration:
  file.managed:
    - name: /etc/chatmail/iroh-relay.toml
    - source: salt://chatmail/realtime/files/iroh-relay.toml
    - mode: "0644"
    - require:
      - file: relay configuration directory

unit chatmail-iroh:
  file.managed:
    - name: /etc/systemd/system/chatmail-iroh.service
    - source: salt://chatmail/realtime/files/chatmail-iroh.service
    - mode: "0644"
    - onchanges_in:
      - cmd: systemd reads its units

iroh relay service:
  service.running:
    - name: chatmail-iroh
    - enable: True
    - watch:
      - chatmail_binary: iroh relay program
      - file: iroh relay configuration
      - file: unit chatmail-iroh
      - file: hardening of the services
    - require:
      - cmd: systemd reads its units
