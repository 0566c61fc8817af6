{#- Removes the SSH server of Debian, if chatmail.move installed it. -#}
{% set held = "/etc/systemd/system/ssh.service.d/chatmail-move.conf" %}

chatmail SSH server of a move is gone:
  pkg.purged:
    - name: openssh-server
    - onlyif: test -e {{ held }}

chatmail SSH server of Debian may start:
  file.absent:
    - name: {{ held }}
    - require:
      - pkg: chatmail SSH server of a move is gone
