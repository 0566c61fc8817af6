{#- Removes the archives of this machine, if `clean:purge` is true. Otherwise nothing is to be undone. -#}
{% from "chatmail/settings.jinja" import relay with context %}

{%- if relay.clean.purge %}

chatmail archives are gone:
  file.absent:
    - name: /var/backups/chatmail/archives
{%- endif %}
