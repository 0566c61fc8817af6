{#- Removes the Python package. Needs all services that run it to be gone (chatmail.clean). Debian's libraries stay. -#}
chatmail program is gone:
  file.absent:
    - name: /usr/local/lib/chatmail/chatmaild
