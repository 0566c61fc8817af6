{#- Postfix as Debian ships it, and the directory in which it finds the filter: below its own, because most of its
    daemons live in a chroot there. Needs the users (chatmail.host). -#}
include:
  - chatmail.host

postfix package:
  pkg.installed:
    - name: postfix
    - require:
      - sls: chatmail.host

directory of the filter's sockets:
  file.directory:
    - name: /var/spool/postfix/chatmail
    - user: chatmail-filter
    - group: postfix
    # The sockets get the directory's group: Postfix connects, nobody else.
    - mode: "2750"
    - require:
      - pkg: postfix package
