{#- Removes the timers, the services that they start, and their numbers. No mail is deleted. -#}

include:
  - chatmail.modules

{% for timer in ["expire", "report"] %}
chatmail-{{ timer }} timer is stopped:
  chatmail_service.dead:
    - name: chatmail-{{ timer }}.timer

chatmail-{{ timer }} units are removed:
  file.absent:
    - names:
      - /etc/systemd/system/chatmail-{{ timer }}.timer
      - /etc/systemd/system/chatmail-{{ timer }}.service
      - /var/lib/systemd/timers/stamp-chatmail-{{ timer }}.timer
    - require:
      - chatmail_service: chatmail-{{ timer }} timer is stopped
{% endfor %}

chatmail numbers of retention are removed:
  file.absent:
    - names:
      - /usr/local/lib/chatmail/chatmail_expire.py
      - /var/lib/chatmail-retention
