{#- The library with which Salt asks DNS. The relay's records, too, if pillar says how to publish them. Needs the
    signing keys (chatmail.dkim). -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules
  - chatmail.dkim

{% set debian_python = "/usr/lib/python3/dist-packages" -%}

dnspython:
  pkg.installed:
    - name: python3-dnspython
    - reload_modules: True

{%- if relay.salt_site_packages %}

# Salt has its own Python, which does not find Debian's packages. dnspython is pure Python, so both can use the package
# that Debian keeps up to date.
dnspython in Salt's own Python:
  file.symlink:
    - name: {{ relay.salt_site_packages }}/dns
    - target: {{ debian_python }}/dns
    - unless:
      - fun: file.file_exists
        path: {{ relay.salt_site_packages }}/dns/__init__.py
    - reload_modules: True
    - require:
      - pkg: dnspython
{%- endif %}

{%- if relay.form != "ip" and (relay.dns.server or relay.dns.hook) %}

records of the relay:
  chatmail_dns.published:
    - require:
      - sls: chatmail.dkim
      - pkg: dnspython
{%- if relay.dkim.rotate_after %}

signing keys are rotated in time:
  chatmail_dkim.rotated:
    - require:
      - chatmail_dns: records of the relay
{%- endif %}
{%- endif %}
