{#- Fails unless the authoritative servers have every required record. Changes nothing. It is for orchestrations, and
    for operators who publish records by hand. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.dns

chatmail records are in DNS:
  chatmail_dns.verified:
    - settings: {{ relay | json }}
    # Not `sls: chatmail.dns`: if pillar has no way to publish, that file may have no state, and the requisite would
    # fail. If it has states, they run before this one, because it is included.
    - require:
      - file: chatmail program
      - sls: chatmail.dkim
