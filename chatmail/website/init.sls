{#- The web pages: the machine builds them from Markdown into /var/www/chatmail, from where nginx serves them. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - chatmail.packages
  - chatmail.modules

chatmail website packages:
  chatmail_package.installed:
    - pkgs: [python3-jinja2, python3-markdown, python3-segno]
    - require:
      - chatmail_package: chatmail packages of all parts

chatmail website sources:
  file.recurse:
    - name: /usr/local/lib/chatmail-website
    - source: salt://chatmail/website/files
    - exclude_pat: "*__pycache__*"
    - clean: True
    - dir_mode: "0755"
    - file_mode: "0644"

chatmail website pages:
  chatmail_website.built:
    - name: /var/www/chatmail
    - program: /usr/local/lib/chatmail-website/build.py
    - settings: {{ relay | json }}
    - require:
      - chatmail_package: chatmail website packages
    - watch:
      - file: chatmail website sources
