{#- Fails while a foreign program listens on a port that the relay needs. Needs nothing. All states that set up the
    relay require this one, so nothing of the relay changes on such a machine. States of other formulas still run. -#}
include:
  - chatmail.modules

chatmail ports of the relay are free:
  chatmail_relay.ports_free:
    - name: chatmail
    # All .sls files that set up the relay. Salt ignores those that are not in the run.
    - require_in:
      - sls: chatmail.backup
      - sls: chatmail.certificate
      - sls: chatmail.certificate.account
      - sls: chatmail.certificate.acme
      - sls: chatmail.certificate.external
      - sls: chatmail.certificate.service
      - sls: chatmail.dkim
      - sls: chatmail.dns
      - sls: chatmail.dns.verified
      - sls: chatmail.dovecot
      - sls: chatmail.dovecot.package
      - sls: chatmail.host
      - sls: chatmail.host.journal
      - sls: chatmail.host.kernel
      - sls: chatmail.host.users
      - sls: chatmail.dovecot_objects
      - sls: chatmail.dovecot_objects.clean
      - sls: chatmail.metrics.clean
      - sls: chatmail.metrics.endpoint
      - sls: chatmail.nginx
      - sls: chatmail.packages
      - sls: chatmail.postfix
      - sls: chatmail.postfix.package
      - sls: chatmail.program
      - sls: chatmail.realtime.iroh
      - sls: chatmail.realtime.iroh_absent
      - sls: chatmail.realtime.turn
      - sls: chatmail.resolver
      - sls: chatmail.resolver.resolv_conf
      - sls: chatmail.retention
      - sls: chatmail.services
      - sls: chatmail.services.renamed
      - sls: chatmail.services.units
      - sls: chatmail.website
