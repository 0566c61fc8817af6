{#- Stops nginx and restores the configuration that it had before. -#}
{% from "chatmail/host/backup.jinja" import ours %}

include:
  - chatmail.modules

chatmail nginx is stopped:
  chatmail_service.dead:
    - name: nginx
    - onlyif: {{ ours("/etc/nginx/nginx.conf") }}

chatmail original of /etc/nginx/nginx.conf is back:
  chatmail_original.restored:
    - name: /etc/nginx/nginx.conf
    - require:
      - chatmail_service: chatmail nginx is stopped

chatmail drop-in of nginx is gone:
  file.absent:
    - name: /etc/systemd/system/nginx.service.d/chatmail.conf
    - require:
      - chatmail_service: chatmail nginx is stopped

chatmail systemd forgets the drop-in of nginx:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: chatmail drop-in of nginx is gone
