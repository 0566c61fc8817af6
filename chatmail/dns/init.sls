{#- The relay's records in DNS, if pillar says how to publish them. Needs the program and the signing keys
    (chatmail.dkim). -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules
  - chatmail.program
  - chatmail.dkim

{%- if relay.salt_site_packages %}

# Releases up to 2026.11 put a link there, because their modules asked DNS themselves.
chatmail link to dnspython is gone:
  chatmail_command.run:
    - name: rm {{ relay.salt_site_packages }}/dns
    # Only our link is removed: the package itself may be installed there.
    - needed: test -L {{ relay.salt_site_packages }}/dns
{%- endif %}

{#- A machine out of service would lead the domain back to itself. #}
{%- if relay.in_service and relay.form != "ip" and (relay.dns.server or relay.dns.hook) %}

chatmail records of the relay:
  chatmail_dns.published:
    - settings: {{ relay | json }}
    - require:
      - sls: chatmail.dkim
      - file: chatmail program
{%- if relay.dkim.rotate_after %}

chatmail signing keys are rotated in time:
  chatmail_dkim.rotated:
    - settings: {{ relay | json }}
    - require:
      - chatmail_dns: chatmail records of the relay
{%- endif %}
{%- endif %}
