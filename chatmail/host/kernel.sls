{#- Kernel limits for idle clients, each of which needs an inotify instance. Needs nothing. In a container only the host
    can set these limits; then the state warns and does not fail. -#}
include:
  - chatmail.modules
  - .ports

# A hibernated IMAP client needs one inotify instance. With the default of 128, the 129th client cannot hibernate.
{% set limits = {
    "fs.inotify.max_user_instances": 65535,
    "fs.inotify.max_user_watches": 65535,
} %}

chatmail kernel limits at boot:
  file.managed:
    - name: /etc/sysctl.d/90-chatmail.conf
    - mode: "0644"
    - contents:
      - "# Managed by the chatmail formula."
{%- for key, value in limits.items() %}
      - "{{ key }} = {{ value }}"
{%- endfor %}

{% for key, value in limits.items() %}
chatmail kernel limit {{ key }}:
  chatmail_relay.kernel_limit:
    - name: {{ key }}
    - value: {{ value }}
    - require:
      - file: chatmail kernel limits at boot
{% endfor %}
