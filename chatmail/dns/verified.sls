{#- Fails unless the authoritative servers have every required record. Changes nothing. It is for orchestrations, and
    for operators who publish records by hand. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.dns

chatmail records are in DNS:
  chatmail_dns.verified:
    - settings: {{ relay | json }}
    # Without a way to publish there may be no state of chatmail.dns; what there is comes before this one.
    - require:
      - file: chatmail program
      - sls: chatmail.dkim
