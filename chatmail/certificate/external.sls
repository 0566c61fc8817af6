{#- The operator's certificate and key: copies them now, and again when they change. Needs the two files. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% set certificate, key = relay.tls_external_cert_and_key %}

include:
  - .self_signed
  - .service

operator's certificate:
  chatmail_certificate.external:
    - name: {{ relay.tls_certificate }}
    - certificate: {{ certificate }}
    - key: {{ key }}
    - subject_names: {{ relay.tls_names | json }}
    - require:
      - chatmail_certificate: self-signed certificate

operator's certificate is watched:
  file.managed:
    - name: /etc/systemd/system/chatmail-certificate.path
    - source: salt://chatmail/certificate/files/chatmail-certificate.path.jinja
    - template: jinja
    - context:
        certificate: {{ certificate }}
        key: {{ key }}
    - mode: "0644"
    - onchanges_in:
      - cmd: systemd reads its units
  service.running:
    - name: chatmail-certificate.path
    - enable: True
    - watch:
      - file: operator's certificate is watched
    - require:
      - cmd: systemd reads its units
      - chatmail_certificate: operator's certificate
      - sls: chatmail.certificate.service
