{#- Our own services. Needs the settings file and the users (chatmail.host), the resolver, the signing keys (chatmail.dkim)
    and the package (chatmail.program). Each service is one subpackage and one unit. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - .renamed
  - .units
  - chatmail.host
  - chatmail.resolver
  - chatmail.dkim
  - chatmail.postfix.package
  - chatmail.program

{% for service in relay.services %}
unit chatmail-{{ service }}:
  file.managed:
    - name: /etc/systemd/system/chatmail-{{ service }}.service
    - source: salt://chatmail/services/files/chatmail-{{ service }}.service.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - onchanges_in:
      - cmd: systemd reads its units

service chatmail-{{ service }}:
  service.running:
    - name: chatmail-{{ service }}
    - enable: True
    - watch:
      - pkg: libraries of the program
      - file: program
      - file: hardening of the services
      - file: unit chatmail-{{ service }}
{%- if service != "accounts" %}
      # It asks DNS, by the servers that resolv.conf named when it started.
      - file: resolv.conf names our resolver
{%- endif %}
    - require:
      - cmd: systemd reads its units
      - file: settings of the services
      - sls: chatmail.dkim
      - file: directory of the filter's sockets
      - file: directory of the transport's socket
{% endfor %}
