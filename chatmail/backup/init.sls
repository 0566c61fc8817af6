{#- age, which encrypts the archives of `chatmail_backup.create`. Needs the program. Without `backup_recipients` nothing
    is installed. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules
  - chatmail.program

{%- if relay.backup_recipients %}

chatmail encryption of backups:
  pkg.installed:
    - install_recommends: False
    - name: age
{%- endif %}
