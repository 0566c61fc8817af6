{#- Removes the web pages and the program that built them. Packages stay, because other programs may need them. -#}
chatmail website pages are gone:
  file.absent:
    - name: /var/www/chatmail

chatmail website sources are gone:
  file.absent:
    - name: /usr/local/lib/chatmail-website
