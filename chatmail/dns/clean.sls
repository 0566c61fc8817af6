{#- Removes dnspython from Salt's own Python. The records in DNS stay, because a relay that is set up again needs them.
    -#}
{% from "chatmail/settings.jinja" import relay with context %}

chatmail records stay in DNS:
  test.nop: []

{%- if relay.salt_site_packages %}

chatmail link to dnspython is gone:
  chatmail_command.run:
    - name: rm {{ relay.salt_site_packages }}/dns
    # Only our link is removed: the package itself may be installed there.
    - needed: test -L {{ relay.salt_site_packages }}/dns
{%- endif %}
