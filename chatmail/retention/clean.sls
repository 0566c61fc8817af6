{#- Removes the timers, the services that they start, and their numbers. No mail is deleted. -#}
{% for timer in ["expire", "report"] %}
chatmail-{{ timer }} timer is stopped:
  service.dead:
    - name: chatmail-{{ timer }}.timer
    - enable: False
    # Where the timer is already gone, a dry run would announce a change.
    - onlyif:
      - fun: service.available
        name: chatmail-{{ timer }}.timer

chatmail-{{ timer }} units are removed:
  file.absent:
    - names:
      - /etc/systemd/system/chatmail-{{ timer }}.timer
      - /etc/systemd/system/chatmail-{{ timer }}.service
      - /var/lib/systemd/timers/stamp-chatmail-{{ timer }}.timer
    - require:
      - service: chatmail-{{ timer }} timer is stopped
{% endfor %}

chatmail numbers of retention are removed:
  file.absent:
    - names:
      - /usr/local/lib/chatmail/chatmail_expire.py
      - /var/lib/chatmail-retention
