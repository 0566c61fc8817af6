{#- Fails unless the authoritative servers have every required record. Changes nothing. It is for orchestrations, and
    for operators who publish records by hand. -#}
include:
  - chatmail.dns

DNS has the relay's records:
  chatmail_dns.verified:
    # Without a way to publish there may be no state of chatmail.dns; what there is comes before this one.
    - require:
      - file: program
      - sls: chatmail.dkim
