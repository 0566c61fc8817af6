{#- Takes the relay off the machine, in the reverse order of init.sls. Mail and keys stay, so that `state.apply chatmail`
    brings the same relay back, unless `chatmail:clean:purge` is true. Packages that the machine may need for other
    things (nginx, Postfix, Dovecot, unbound, Python) stay too, stopped and with the configuration from before. -#}
include:
  - chatmail.metrics.clean
  - chatmail.retention.clean
  - chatmail.dns.clean
  - chatmail.realtime.clean
  - chatmail.nginx.clean
  - chatmail.website.clean
  - chatmail.postfix.clean
  - chatmail.dovecot.clean
  - chatmail.services.clean
  - chatmail.program.clean
  - chatmail.dkim.clean
  - chatmail.certificate.clean
  - chatmail.resolver.clean
  - chatmail.host.clean
