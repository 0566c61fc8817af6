{#- Fails unless the authoritative servers have every required record. Changes nothing; for orchestrations and for an
    operator who publishes by hand. -#}
include:
  - chatmail.dns

DNS has the relay's records:
  chatmail_dns.verified:
    - require:
      - sls: chatmail.dns
