{#- nginx: shares port 443 among HTTPS, IMAP and SMTP by ALPN, and serves the pages. Needs the certificate. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% from "chatmail/host/local_lines.jinja" import local_lines with context %}

include:
  - chatmail.packages
  - chatmail.host
  - chatmail.certificate
  - chatmail.services.units

# Thousands of long connections pass through nginx, and each needs two descriptors. This file comes before the package,
# which enables the daemon: the machine may start again before our configuration is there.
chatmail nginx may hold many connections and is started again after a crash:
  file.managed:
    - name: /etc/systemd/system/nginx.service.d/chatmail.conf
    - source: salt://chatmail/nginx/files/limits.conf
    - mode: "0644"
    - makedirs: True
    - require:
      - sls: chatmail.host
    - onchanges_in:
      - cmd: chatmail systemd reads its units
    - require_in:
      - chatmail_package: chatmail packages of all parts

chatmail nginx packages:
  chatmail_package.installed:
    - pkgs: [nginx, libnginx-mod-stream]
    - require:
      - chatmail_package: chatmail packages of all parts
      - file: chatmail nginx may hold many connections and is started again after a crash

chatmail original of /etc/nginx/nginx.conf is kept:
  chatmail_original.kept:
    - name: /etc/nginx/nginx.conf
    - package: nginx-common
    - require:
      - chatmail_package: chatmail nginx packages

chatmail nginx configuration:
  file.managed:
    - name: /etc/nginx/nginx.conf
    - source: salt://chatmail/nginx/files/nginx.conf.jinja
    - template: jinja
    - context:
        relay: {{ relay | json }}
        local_lines: {{ local_lines("nginx.conf") | json }}
    - mode: "0644"
    - check_cmd: /usr/local/lib/chatmail/check-configuration nginx -t -c
    - require:
      - chatmail_original: chatmail original of /etc/nginx/nginx.conf is kept
      - file: chatmail checker of configurations
      - sls: chatmail.certificate

chatmail nginx runs with these limits:
  chatmail_service.running:
    - name: nginx
    - watch:
      - file: chatmail nginx may hold many connections and is started again after a crash
    - require:
      - cmd: chatmail systemd reads its units
      - file: chatmail nginx configuration

chatmail nginx service:
  chatmail_service.running:
    - name: nginx
    - reload: True
    - watch:
      - file: chatmail nginx configuration
      - chatmail_certificate: chatmail self-signed certificate
    - require:
      - chatmail_service: chatmail nginx runs with these limits
