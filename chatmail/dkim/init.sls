{#- The keys that sign mail: an RSA and an Ed25519 key, made on this machine. Needs the group of the signing keys
    (chatmail.host) and the program. A relay without a domain signs nothing, and its directory is empty. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.modules
  - chatmail.host
  - chatmail.program

directory of the signing keys:
  file.directory:
    - name: /etc/chatmail/dkim
    - user: root
    - group: chatmail-dkim
    - mode: "0750"
    - require:
      - file: relay configuration directory
      - group: group of the signing keys

{%- if relay.dkim_required %}

signing keys:
  chatmail_dkim.key_present:
    - require:
      - file: directory of the signing keys
      - file: program
{%- endif %}
