{#- Fails unless the authoritative servers have every required record. Changes nothing. It is for orchestrations, and
    for operators who publish records by hand. -#}
include:
  - chatmail.dns

chatmail records are in DNS:
  chatmail_dns.verified:
    - require:
      - sls: chatmail.dns
