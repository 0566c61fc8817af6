{#- Undoes what the relay changed on the machine itself. Mail, keys and the users that own them stay, unless
    `clean:purge` is true. Kernel limits stay until the next boot. rsyslog is not installed again. Needs all services to
    be stopped (chatmail.clean). -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules

chatmail settings of the relay are gone:
  file.absent:
    - names:
      - /etc/chatmail/relay.json
      - /etc/chatmail-nocreate
      - /etc/sysctl.d/90-chatmail.conf
      - /usr/local/lib/chatmail

chatmail journal is kept as before:
  file.absent:
    - name: /etc/systemd/journald.conf.d/chatmail.conf

chatmail journal service without our settings:
  chatmail_service.running:
    - name: systemd-journald
    - watch:
      - file: chatmail journal is kept as before

{%- if relay.clean.purge %}

chatmail mail and keys are gone:
  file.absent:
    - names: [{{ relay.mailboxes_dir | json }}, /home/vmail, /etc/chatmail]

# A user's own group is removed with the user if it has no other member.
{% for user in ["chatmail-transport", "chatmail-filter", "vmail"] %}
chatmail user {{ user }} is gone:
  user.absent:
    - name: {{ user }}
    - require:
      - file: chatmail mail and keys are gone
{% endfor %}

chatmail group of the signing keys is gone:
  group.absent:
    - name: chatmail-dkim
    - require:
      - user: chatmail user chatmail-filter is gone
{%- endif %}
