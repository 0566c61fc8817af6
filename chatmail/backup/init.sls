{#- age, which encrypts the archives of `chatmail_backup.create`. Needs the program. Without `backup_recipients` nothing
    is installed. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.packages
  - chatmail.program

{%- if relay.backup_recipients %}

chatmail encryption of backups:
  chatmail_package.installed:
    - pkgs: [age]
    - require:
      - chatmail_package: chatmail packages of all parts
{%- endif %}
