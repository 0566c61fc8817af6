{#- Stops nginx and restores the configuration that it had before. -#}
{% from "chatmail/host/backup.jinja" import original_is_back, ours %}

nginx is stopped:
  service.dead:
    - name: nginx
    - enable: False
    - onlyif: {{ ours("/etc/nginx/nginx.conf") }}

{{ original_is_back("/etc/nginx/nginx.conf", {"service": "nginx is stopped"}) }}

drop-in of nginx is gone:
  file.absent:
    - name: /etc/systemd/system/nginx.service.d/chatmail.conf
    - require:
      - service: nginx is stopped

systemd forgets the drop-in of nginx:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: drop-in of nginx is gone
