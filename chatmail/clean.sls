{#- Removes the relay from the machine, in the reverse order of init.sls. Mail and keys stay, so that `state.apply
    chatmail` restores the same relay, unless `chatmail:clean:purge` is true. Packages that the machine may need for
    other things (nginx, Postfix, Dovecot, certbot, coturn) stay, too. They are stopped and get back the configuration
    that they had before. -#}
{#- Without this line, wrong settings would be told once for each part. -#}
{% from "chatmail/settings.jinja" import relay with context %}
include:
  - chatmail.backup.clean
  - chatmail.metrics.clean
  - chatmail.retention.clean
  - chatmail.dns.clean
  - chatmail.realtime.clean
  - chatmail.nginx.clean
  - chatmail.website.clean
  - chatmail.postfix.clean
  - chatmail.dovecot.clean
  - chatmail.dovecot_objects.clean
  - chatmail.services.clean
  - chatmail.program.clean
  - chatmail.dkim.clean
  - chatmail.certificate.clean
  - chatmail.resolver.clean
  - chatmail.host.clean
