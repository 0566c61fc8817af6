{#- nginx: shares port 443 among HTTPS, IMAP and SMTP by ALPN, and serves the pages. Needs the certificate. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% from "chatmail/host/backup.jinja" import kept_original %}

include:
  - chatmail.host
  - chatmail.certificate
  - chatmail.services.units

# Thousands of long connections pass through nginx, and each needs two descriptors. This file comes before the package,
# which would start the daemon at once, with Debian's configuration.
nginx may hold many connections and is started again after a crash:
  file.managed:
    - name: /etc/systemd/system/nginx.service.d/chatmail.conf
    - source: salt://chatmail/nginx/files/limits.conf
    - mode: "0644"
    - makedirs: True
    - require:
      - sls: chatmail.host
    - onchanges_in:
      - cmd: systemd reads its units

nginx packages:
  pkg.installed:
    - pkgs: [nginx, libnginx-mod-stream]
    - require:
      - file: nginx may hold many connections and is started again after a crash

{{ kept_original("/etc/nginx/nginx.conf", {"pkg": "nginx packages"}) }}

nginx configuration:
  file.managed:
    - name: /etc/nginx/nginx.conf
    - source: salt://chatmail/nginx/files/nginx.conf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
    - mode: "0644"
    - check_cmd: nginx -t -c
    - require:
      - file: original of /etc/nginx/nginx.conf is kept
      - sls: chatmail.certificate

nginx runs with these limits:
  service.running:
    - name: nginx
    - enable: True
    - watch:
      - file: nginx may hold many connections and is started again after a crash
    - require:
      - cmd: systemd reads its units
      - file: nginx configuration

nginx service:
  service.running:
    - name: nginx
    - reload: True
    - watch:
      - file: nginx configuration
      - chatmail_certificate: self-signed certificate
    - require:
      - service: nginx runs with these limits
