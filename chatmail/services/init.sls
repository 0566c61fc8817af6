{#- Our own services, their package and its libraries. Needs the settings file and the users (chatmail.host), the
    resolver and the signing keys (chatmail.dkim). Each service is one module of the package and one unit. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.host
  - chatmail.resolver
  - chatmail.dkim
  - chatmail.postfix.package

libraries of the services:
  pkg.installed:
    - pkgs:
      - ca-certificates
      - python3
      - python3-aiohttp
      - python3-cryptography
      - python3-dnspython
      - python3-milter
      - python3-passlib
    - require:
      - sls: chatmail.host

package of the services:
  file.recurse:
    - name: /usr/local/lib/chatmail/chatmaild
    - source: salt://chatmail/services/files/chatmaild
    - exclude_pat: "*__pycache__*"
    - clean: True
    - dir_mode: "0755"
    - file_mode: "0644"
    - require:
      - pkg: libraries of the services

hardening of the services:
  file.managed:
    - name: /etc/systemd/system/chatmail-.service.d/hardening.conf
    - source: salt://chatmail/services/files/hardening.conf
    - mode: "0644"
    - makedirs: True

{% for service in ["accounts", "dict", "filter", "transport"] %}
unit chatmail-{{ service }}:
  file.managed:
    - name: /etc/systemd/system/chatmail-{{ service }}.service
    - source: salt://chatmail/services/files/chatmail-{{ service }}.service.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"

service chatmail-{{ service }}:
  service.running:
    - name: chatmail-{{ service }}
    - enable: True
    - watch:
      - pkg: libraries of the services
      - file: package of the services
      - file: hardening of the services
      - file: unit chatmail-{{ service }}
      - file: settings of the services
      - file: resolv.conf names our resolver
    - require:
      - sls: chatmail.dkim
      - file: directory of the filter's sockets
      - file: directory of the transport's socket
{% endfor %}
