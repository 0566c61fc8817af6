{#- Users, groups, and the directories of the mail. Needs nothing. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - .ports

# The members of this group can read the private keys of DKIM. The group has no other purpose.
chatmail group of the signing keys:
  group.present:
    - name: chatmail-dkim
    - system: True

chatmail user of the mail:
  user.present:
    - name: vmail
    - system: True
    - usergroup: True
    - home: /home/vmail
    - createhome: False
    - shell: /usr/sbin/nologin

# The group vmail lets the filter see whether a recipient exists. Only the user vmail can read mail.
chatmail user of the filter:
  user.present:
    - name: chatmail-filter
    - system: True
    - usergroup: True
    - groups: [chatmail-dkim, vmail]
    - home: /nonexistent
    - createhome: False
    - shell: /usr/sbin/nologin
    - require:
      - user: chatmail user of the mail
      - group: chatmail group of the signing keys

chatmail user of the transport:
  user.present:
    - name: chatmail-transport
    - system: True
    - usergroup: True
    - home: /nonexistent
    - createhome: False
    - shell: /usr/sbin/nologin

chatmail home of the mail:
  file.directory:
    - names: [/home/vmail, /home/vmail/mail, {{ relay.mailboxes_dir | json }}]
    - user: vmail
    - group: vmail
    - mode: "0750"
    - makedirs: True
    - require:
      - user: chatmail user of the mail
