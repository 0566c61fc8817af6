{#- Removes what a backup leaves on the machine. Only `clean:purge` removes the archives. age stays, because the machine
    may need it for other things. -#}
{% from "chatmail/settings.jinja" import relay with context %}

chatmail lock of the backups is gone:
  file.absent:
    - names:
      - /run/chatmail-backup.lock
{%- if relay.clean.purge %}
      - /var/backups/chatmail/archives
{%- endif %}
