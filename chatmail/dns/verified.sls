{#- Fails unless the authoritative servers have every required record. Changes nothing. It is for orchestrations, and
    for operators who publish records by hand. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.dns

chatmail records are in DNS:
  chatmail_dns.verified:
    - settings: {{ relay | json }}
    - require:
      - sls: chatmail.dns
