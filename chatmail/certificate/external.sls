{#- The operator's certificate and key: copies them now, and again when they change. Needs the two files. Other relays
    have nothing to copy. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.certificate
{%- if relay.tls_mode == "external" %}
{%- set certificate, key = relay.tls_external_cert_and_key %}
  - .service

chatmail certificate of the operator:
  chatmail_certificate.external:
    - name: {{ relay.tls_certificate }}
    - certificate: {{ certificate }}
    - key: {{ key }}
    - subject_names: {{ relay.tls_names | json }}
    - require:
      - chatmail_certificate: chatmail self-signed certificate

chatmail certificate of the operator is watched:
  file.managed:
    - name: /etc/systemd/system/chatmail-certificate.path
    - source: salt://chatmail/certificate/files/chatmail-certificate.path.jinja
    - template: jinja
    - context:
        certificate: {{ certificate }}
        key: {{ key }}
    - mode: "0644"
    - onchanges_in:
      - cmd: chatmail systemd reads its units
  chatmail_service.running:
    - name: chatmail-certificate.path
    - watch:
      - file: chatmail certificate of the operator is watched
    - require:
      - cmd: chatmail systemd reads its units
      - chatmail_certificate: chatmail certificate of the operator
      - sls: chatmail.certificate.service
{%- endif %}
