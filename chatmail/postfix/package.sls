{#- Postfix as Debian ships it, and the directories for the sockets of our services. These are below Postfix's own
    directory, because most of its daemons run in a chroot there. Needs the users (chatmail.host). -#}
include:
  - chatmail.host

chatmail postfix package:
  pkg.installed:
    - name: postfix
    - require:
      - sls: chatmail.host

# The sockets inherit the group of the directories, so only Postfix can connect.
chatmail directory of the filter's sockets:
  file.directory:
    - name: /var/spool/postfix/chatmail
    - user: chatmail-filter
    - group: postfix
    - mode: "2750"
    - require:
      - pkg: chatmail postfix package

chatmail directory of the transport's socket:
  file.directory:
    - name: /var/spool/postfix/chatmail-transport
    - user: chatmail-transport
    - group: postfix
    - mode: "2750"
    - require:
      - pkg: chatmail postfix package
