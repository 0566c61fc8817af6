{#- Stops Postfix and restores the configuration that it had before. The queue stays as it is, unless `clean:purge` is
    true. -#}
{% from "chatmail/settings.jinja" import relay with context %}
{% from "chatmail/host/backup.jinja" import ours %}

include:
  - chatmail.modules

chatmail postfix is stopped:
  chatmail_service.dead:
    - name: postfix
    - onlyif: {{ ours("/etc/postfix/main.cf") }}

{%- if relay.clean.purge %}

chatmail queue is empty:
  cmd.run:
    - name: postsuper -d ALL
    # Mail of another configuration may be in the queue by now; then the queue is left alone.
    - onlyif:
      - grep -q "Managed by the chatmail formula" /etc/postfix/main.cf
      - cd /var/spool/postfix && find maildrop hold incoming active deferred -type f | grep -q .
    - require:
      - chatmail_service: chatmail postfix is stopped
    - require_in:
      - chatmail_original: chatmail original of /etc/postfix/main.cf is back
{%- endif %}

{% for file in ["main.cf", "master.cf"] %}
chatmail original of /etc/postfix/{{ file }} is back:
  chatmail_original.restored:
    - name: /etc/postfix/{{ file }}
    - require:
      - chatmail_service: chatmail postfix is stopped
{% endfor %}

chatmail tables and programs of postfix are gone:
  file.absent:
    - names:
      - /etc/postfix/sender_is_login
      - /etc/postfix/submission_header_checks
      - /etc/postfix/delivery_header_checks
      - /etc/postfix/command_filter
      - /usr/local/lib/chatmail/check-postfix
      - /usr/local/lib/chatmail/send-at-once
    - require:
      - chatmail_service: chatmail postfix is stopped

chatmail drop-in of postfix is gone:
  file.absent:
    - name: /etc/systemd/system/{{ "postfix@-" if relay.debian_release == 12 else "postfix" }}.service.d/chatmail.conf
    - require:
      - chatmail_service: chatmail postfix is stopped

chatmail systemd forgets the drop-in of postfix:
  cmd.run:
    - name: systemctl daemon-reload
    - onchanges:
      - file: chatmail drop-in of postfix is gone
