{#- The whole relay. Parts that others need come first. Needs only `chatmail:mail_domain` in pillar. -#}
{% from "chatmail/settings.jinja" import relay with context %}
include:
  - chatmail.host
  - chatmail.resolver
  - chatmail.certificate
  - chatmail.dkim
  - chatmail.services
  - chatmail.metrics
  - chatmail.dovecot_objects
  - chatmail.dovecot
  - chatmail.postfix
  - chatmail.website
  - chatmail.nginx
  - chatmail.realtime
  - chatmail.certificate.account
  - chatmail.dns
  - chatmail.certificate.acme
  - chatmail.retention
  - chatmail.backup
