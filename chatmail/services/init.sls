{#- Our own services. Needs the settings file and the users (chatmail.host), the resolver, the signing keys
    (chatmail.dkim) and the package (chatmail.program). Each service is one unit. -#}
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
chatmail-{{ service }} unit:
  file.managed:
    - name: /etc/systemd/system/chatmail-{{ service }}.service
    - source: salt://chatmail/services/files/chatmail-{{ service }}.service.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - onchanges_in:
      - cmd: chatmail systemd reads its units

chatmail-{{ service }} service:
  chatmail_service.running:
    - name: chatmail-{{ service }}
    - watch:
      - chatmail_package: chatmail libraries of the program
      - file: chatmail program
      - file: chatmail hardening of the services
      - file: chatmail-{{ service }} unit
      # The service asks DNS, and reads resolv.conf only when it starts.
      - file: chatmail resolv.conf names our resolver
    - require:
      - cmd: chatmail systemd reads its units
      - file: chatmail settings of the services
      - sls: chatmail.dkim
      - file: chatmail directory of the filter's sockets
      - file: chatmail directory of the transport's socket
{% endfor %}
