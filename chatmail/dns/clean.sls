{#- Takes dnspython away from Salt's own Python. The records in DNS stay: others resolve them until the operator removes
    the domain, and a relay that comes back needs them. -#}
{% from "chatmail/settings.jinja" import relay with context %}

{%- if relay.salt_site_packages %}
dnspython is no longer in Salt's own Python:
  file.absent:
    - name: {{ relay.salt_site_packages }}/dns
    # Only our link: somebody may have installed the package itself there.
    - onlyif:
      - fun: file.is_link
        path: {{ relay.salt_site_packages }}/dns
{%- endif %}
