{#- What two machines need for a move: the program, rsync and OpenSSH. Only the orchestrations of a move apply it. Needs
    nothing. Where Debian's SSH server was not installed before, it stays off: the move starts one of its own. -#}
include:
  - chatmail.packages
  - chatmail.program

chatmail SSH server of Debian does not start:
  chatmail_command.run:
    - name: >-
        mkdir -p /etc/systemd/system/ssh.service.d && printf '%s\n'
        '# Managed by the chatmail formula: chatmail.move installed this server only for its program.'
        '[Unit]' 'ConditionPathExists=/nonexistent' > /etc/systemd/system/ssh.service.d/chatmail-move.conf
    - needed: test ! -e /usr/sbin/sshd
    - require_in:
      - chatmail_package: chatmail packages of all parts

chatmail packages of a move:
  chatmail_package.installed:
    - pkgs: [openssh-client, openssh-server, rsync]
    - require:
      - chatmail_package: chatmail packages of all parts
