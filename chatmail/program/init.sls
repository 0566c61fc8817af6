{#- The one Python package of the relay, and Debian's libraries for it. Services and timers run it, and the relay's Salt
    modules ask it. Needs nothing and changes nothing else on the machine, so that the modules work after
    `state.apply chatmail.program`, before the relay exists. -#}
include:
  - chatmail.packages
  - chatmail.modules

# dnspython recommends an HTTP client, which would cost the filter and the transport 10 MB each.
chatmail libraries of the program:
  chatmail_package.installed:
    - pkgs:
      - ca-certificates
      - python3
      - python3-cryptography
      - python3-dnspython
      - python3-h11
    - require:
      - chatmail_package: chatmail packages of all parts

chatmail program:
  file.recurse:
    - name: /usr/local/lib/chatmail/chatmaild
    - source: salt://chatmail/program/files/chatmaild
    - exclude_pat: "*__pycache__*"
    - clean: True
    - dir_mode: "0755"
    - file_mode: "0644"
    - require:
      - chatmail_package: chatmail libraries of the program

# Each full mailbox and each question of Salt starts a new Python, which starts faster with compiled files. No service
# may write these files itself.
chatmail program is compiled:
  cmd.run:
    - name: |
        find /usr/local/lib/chatmail/chatmaild -name __pycache__ -prune -exec rm -r {} +
        /usr/bin/python3 -m compileall -q /usr/local/lib/chatmail/chatmaild
    - onchanges:
      - file: chatmail program
