{#- Removes the web pages and what built them. Packages stay: others may need them. -#}
website pages are gone:
  file.absent:
    - name: /var/www/chatmail

website sources are gone:
  file.absent:
    - name: /usr/local/lib/chatmail-website
