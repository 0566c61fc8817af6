{#- The certificate that all daemons read from /etc/chatmail/tls. Needs the program. A self-signed certificate comes
    first, so that all daemons can start. Relays with a test domain or without a domain keep it. The operator's files
    replace it here. A certificate of an ACME authority replaces it in chatmail.certificate.acme, which needs nginx to
    run. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules
  - chatmail.host
  - chatmail.program
  - .external

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
