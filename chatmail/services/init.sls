{#- Our own services. Needs the settings file and the users (chatmail.host), the resolver, the signing keys (chatmail.dkim)
    and the package (chatmail.program). Each service is one subpackage and one unit. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - .renamed
  - chatmail.host
  - chatmail.resolver
  - chatmail.dkim
  - chatmail.postfix.package
  - chatmail.program

chatmail hardening of the services:
  file.managed:
    - name: /etc/systemd/system/chatmail-.service.d/hardening.conf
    - source: salt://chatmail/services/files/hardening.conf
    - mode: "0644"
    - makedirs: True

{% for service in relay.services %}
chatmail-{{ service }} unit:
  file.managed:
    - name: /etc/systemd/system/chatmail-{{ service }}.service
    - source: salt://chatmail/services/files/chatmail-{{ service }}.service.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"

chatmail-{{ service }} service:
  service.running:
    - name: chatmail-{{ service }}
    - enable: True
    - watch:
      - pkg: chatmail libraries of the program
      - file: chatmail program
      - file: chatmail hardening of the services
      - file: chatmail-{{ service }} unit
      - file: chatmail settings of the services
      - file: chatmail resolv.conf names our resolver
    - require:
      - sls: chatmail.dkim
      - file: chatmail directory of the filter's sockets
      - file: chatmail directory of the transport's socket
{% endfor %}
