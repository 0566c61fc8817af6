{#- Stops nginx and restores the configuration that it had before. -#}
{% from "chatmail/host/backup.jinja" import original_is_back, ours %}

chatmail nginx is stopped:
  service.dead:
    - name: nginx
    - enable: False
    - onlyif: {{ ours("/etc/nginx/nginx.conf") }}

{{ original_is_back("/etc/nginx/nginx.conf", {"service": "chatmail nginx is stopped"}) }}

chatmail drop-in of nginx is gone:
  file.absent:
    - name: /etc/systemd/system/nginx.service.d/chatmail.conf
    - require:
      - service: chatmail nginx is stopped

chatmail systemd forgets the drop-in of nginx:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: chatmail drop-in of nginx is gone
