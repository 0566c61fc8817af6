{#- A self-signed certificate: permanent, or until another one replaces it. Needs the program. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules
  - chatmail.host
  - chatmail.program

chatmail directory of the certificate:
  file.directory:
    - name: /etc/chatmail/tls
    - mode: "0755"
    - require:
      - sls: chatmail.host

chatmail self-signed certificate:
  chatmail_certificate.self_signed:
    - name: {{ relay.tls_certificate }}
    - key: {{ relay.tls_key }}
    - subject_names: {{ relay.tls_names | json }}
    - placeholder: {{ relay.tls_mode != "self_signed" }}
    - require:
      - file: chatmail directory of the certificate
      - file: chatmail program
