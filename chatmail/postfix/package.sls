{#- Postfix as Debian ships it, and the directories in which it finds our services: below its own, because most of its
    daemons live in a chroot there. Needs the users (chatmail.host). -#}
include:
  - chatmail.host

postfix package:
  pkg.installed:
    - name: postfix
    - require:
      - sls: chatmail.host

# The sockets get the directories' group: Postfix connects, nobody else.
directory of the filter's sockets:
  file.directory:
    - name: /var/spool/postfix/chatmail
    - user: chatmail-filter
    - group: postfix
    - mode: "2750"
    - require:
      - pkg: postfix package

directory of the transport's socket:
  file.directory:
    - name: /var/spool/postfix/chatmail-transport
    - user: chatmail-transport
    - group: postfix
    - mode: "2750"
    - require:
      - pkg: postfix package
