{#- What two machines need for a move: the program, rsync and OpenSSH. Only the orchestrations of a move apply it. Needs
    nothing. Where Debian's SSH server was not installed before, it stays off: the move starts one of its own. -#}
include:
  - chatmail.modules
  - chatmail.program

chatmail SSH server of Debian does not start:
  file.managed:
    - name: /etc/systemd/system/ssh.service.d/chatmail-move.conf
    - contents: |
        # Managed by the chatmail formula: chatmail.move installed this server only for its program.
        [Unit]
        ConditionPathExists=/nonexistent
    - mode: "0644"
    - makedirs: True
    - unless: test -e /usr/sbin/sshd

chatmail packages of a move:
  pkg.installed:
    - install_recommends: False
    - pkgs: [openssh-client, openssh-server, rsync]
    - require:
      - file: chatmail SSH server of Debian does not start
