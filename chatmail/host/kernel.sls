{#- Kernel limits that an idle client per inotify instance needs. Needs nothing; in a container, where they are the
    host's to set, it says so and goes on. -#}
include:
  - chatmail.modules
  - .ports

# A hibernated IMAP client costs one inotify instance (the default of 128 keeps the 129th in a live process).
{% set limits = {
    "fs.inotify.max_user_instances": 65535,
    "fs.inotify.max_user_watches": 65535,
} %}

kernel limits at boot:
  file.managed:
    - name: /etc/sysctl.d/90-chatmail.conf
    - mode: "0644"
    - contents:
      - "# Managed by the chatmail formula."
{%- for key, value in limits.items() %}
      - "{{ key }} = {{ value }}"
{%- endfor %}
    - require:
      - chatmail_relay: ports of the relay are free

{% for key, value in limits.items() %}
{{ key }} is high enough now:
  chatmail_relay.kernel_limit:
    - name: {{ key }}
    - value: {{ value }}
    - require:
      - file: kernel limits at boot
{% endfor %}
