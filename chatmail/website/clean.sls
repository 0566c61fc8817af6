{#- Removes the web pages and the program that built them. Packages stay, because other programs may need them. -#}
chatmail website pages are gone:
  file.absent:
    - names: [/var/www/chatmail, /var/www/chatmail.built]

chatmail website sources are gone:
  file.absent:
    - name: /usr/local/lib/chatmail-website
