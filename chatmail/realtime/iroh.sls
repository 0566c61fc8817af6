{#- The iroh relay, where clients meet for realtime channels: a program from a URL, checked by its digest. Needs the
    configuration directory (chatmail.host), the hardening (chatmail.services) and the routes of chatmail.nginx. No
    other part needs this one: when the download fails, only this part fails, and the rest of the relay works. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules
  - chatmail.host
  - chatmail.services

chatmail iroh relay program:
  chatmail_binary.downloaded:
    - name: /usr/local/bin/iroh-relay
    - source: {{ relay.iroh_binary.url | json }}
    - sha256: {{ relay.iroh_binary.sha256 | json }}
    - require:
      - sls: chatmail.host

chatmail iroh relay configuration:
  file.managed:
    - name: /etc/chatmail/iroh-relay.toml
    - source: salt://chatmail/realtime/files/iroh-relay.toml
    - mode: "0644"
    - require:
      - file: chatmail relay configuration directory

chatmail-iroh unit:
  file.managed:
    - name: /etc/systemd/system/chatmail-iroh.service
    - source: salt://chatmail/realtime/files/chatmail-iroh.service
    - mode: "0644"
    - onchanges_in:
      - cmd: chatmail systemd reads its units

chatmail iroh relay service:
  chatmail_service.running:
    - name: chatmail-iroh
    - watch:
      - chatmail_binary: chatmail iroh relay program
      - file: chatmail iroh relay configuration
      - file: chatmail-iroh unit
      - file: chatmail hardening of the services
    - require:
      - cmd: chatmail systemd reads its units
