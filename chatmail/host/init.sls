{#- The machine under the relay: users and directories, the settings that the services read, a journal in memory, and
    the kernel limits for many idle connections. Needs nothing. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{#- No service reads `salt_site_packages`. It differs between salt-ssh and a minion, so the file would change. -#}
{% set stored = dict(relay) %}
{% do stored.pop("salt_site_packages") %}

include:
  - .ports
  - .users
  - .journal
  - .kernel

chatmail relay configuration directory:
  file.directory:
    - name: /etc/chatmail
    - mode: "0755"

chatmail settings of the services:
  file.serialize:
    - name: /etc/chatmail/relay.json
    - dataset: {{ stored | json }}
    - serializer: json
    - mode: "0644"
    - require:
      - file: chatmail relay configuration directory

# Each part lets it run the checker of its daemon. A fault in the operator's own lines is told as such.
chatmail checker of configurations:
  file.managed:
    - name: /usr/local/lib/chatmail/check-configuration
    - source: salt://chatmail/host/files/check-configuration
    - mode: "0755"
    - makedirs: True

# Existing relays know this file: while it exists, no address is created.
chatmail file that stops new addresses:
{%- if relay.nocreate %}
  file.managed:
    - name: /etc/chatmail-nocreate
    - contents: "Managed by the chatmail formula: `registration: closed` or `nocreate: true` in pillar."
    - mode: "0644"
{%- else %}
  # A file that `chatmail_accounts.nocreate` or an operator has made stays.
  chatmail_original.restored:
    - name: /etc/chatmail-nocreate
{%- endif %}

# Releases up to 2026.11 put TZ into /etc/environment, which no service reads. Now the units set TZ.
chatmail time zone is not in the environment of logins:
  chatmail_command.run:
    - name: sed -i '\|^TZ=:/etc/localtime$|d' /etc/environment
    - needed: grep -qsx TZ=:/etc/localtime /etc/environment
