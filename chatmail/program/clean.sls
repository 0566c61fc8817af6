{#- Removes the Python package. Needs all that runs it to be gone (chatmail.clean). Debian's libraries stay. -#}
program is gone:
  file.absent:
    - name: /usr/local/lib/chatmail/chatmaild
