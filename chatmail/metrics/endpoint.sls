{#- Metrics: the services count, and chatmail-metrics shows the numbers to Prometheus. Needs the settings file
    (chatmail.host) and the services (chatmail.services). Dovecot's numbers come from a socket that its configuration
    opens (chatmail.dovecot). -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.packages
  - chatmail.host
  - chatmail.services

chatmail metrics library:
  chatmail_package.installed:
    - pkgs: [python3-prometheus-client]
    - require:
      - chatmail_package: chatmail packages of all parts
      - sls: chatmail.host

{% for service in relay.services %}
chatmail-{{ service }} counts:
  file.managed:
    - name: /etc/systemd/system/chatmail-{{ service }}.service.d/metrics.conf
    - source: salt://chatmail/metrics/files/counting.conf
    - mode: "0644"
    - makedirs: True
    - require:
      - chatmail_package: chatmail metrics library
    - onchanges_in:
      - cmd: chatmail systemd reads its units
    - watch_in:
      - chatmail_service: chatmail-{{ service }} service
{% endfor %}

chatmail-metrics unit:
  file.managed:
    - name: /etc/systemd/system/chatmail-metrics.service
    - source: salt://chatmail/metrics/files/chatmail-metrics.service.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - onchanges_in:
      - cmd: chatmail systemd reads its units

chatmail metrics service:
  chatmail_service.running:
    - name: chatmail-metrics
    - watch:
      - chatmail_package: chatmail metrics library
      - file: chatmail program
      - file: chatmail hardening of the services
      - file: chatmail-metrics unit
    - require:
      - cmd: chatmail systemd reads its units
      - file: chatmail settings of the services
