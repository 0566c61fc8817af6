{#- Fails unless the authoritative servers have every required record. Changes nothing. It is for orchestrations, and
    for operators who publish records by hand. -#}
include:
  - chatmail.dns

DNS has the relay's records:
  chatmail_dns.verified:
    - require:
      - sls: chatmail.dns
