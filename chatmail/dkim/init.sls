{#- The keys that sign mail: an RSA and an Ed25519 key, made on this machine. Needs the group of the signing keys
    (chatmail.host) and the program. A relay without a domain signs nothing, and its directory is empty. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules
  - chatmail.host
  - chatmail.program

chatmail directory of the signing keys:
  file.directory:
    - name: /etc/chatmail/dkim
    - user: root
    - group: chatmail-dkim
    - mode: "0750"
    - require:
      - file: chatmail relay configuration directory
      - group: chatmail group of the signing keys

{%- if relay.dkim_required %}

chatmail signing keys:
  chatmail_dkim.key_present:
    - require:
      - file: chatmail directory of the signing keys
      - file: chatmail program
{%- endif %}
