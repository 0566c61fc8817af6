{#- Small objects, compiled on this machine, that programs of Dovecot load: with the one for imap, live IMAP clients are
    told of a message at once, not after half a second; with the one for imap-hibernate, idle clients are told some
    milliseconds earlier; with the one for imap-login, idle clients take less memory and give it back. Needs Dovecot's
    packages and the program. With `imap_notify: false`, all three run as Debian ships them. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
{%- if not relay.imap_notify %}
  - .clean
{%- else %}
  - chatmail.packages
  - chatmail.dovecot.package
  - chatmail.program
  - chatmail.services.units

# A compiler of 1 MB. It needs no headers and no libraries for this.
chatmail compiler of dovecot_objects:
  chatmail_package.installed:
    - pkgs: [tcc]
    - require:
      - chatmail_package: chatmail packages of all parts

chatmail sources of dovecot_objects:
  file.managed:
    - names:
{%- for program in ["imap", "imap-hibernate", "imap-login"] %}
      - /usr/local/lib/chatmail/dovecot_objects/{{ program }}.c:
        - source: salt://chatmail/dovecot_objects/files/{{ program }}.c
{%- endfor %}
    - mode: "0644"
    - makedirs: True

# When this fails, Dovecot works without the object, so no other state requires it.
chatmail dovecot_objects are compiled:
  chatmail_command.run:
    - name: PYTHONPATH=/usr/local/lib/chatmail /usr/bin/python3 -m chatmaild.dovecot_objects
    - needed: "! sha256sum --check --status --strict /usr/local/lib/chatmail/dovecot_objects/checked"
    - require:
      - chatmail_package: chatmail compiler of dovecot_objects
      - chatmail_package: chatmail dovecot packages
      - file: chatmail sources of dovecot_objects
      - file: chatmail program

{% for kind in ["service", "path"] %}
chatmail-dovecot-objects {{ kind }} unit:
  file.managed:
    - name: /etc/systemd/system/chatmail-dovecot-objects.{{ kind }}
    - source: salt://chatmail/dovecot_objects/files/chatmail-dovecot-objects.{{ kind }}
    - mode: "0644"
    - onchanges_in:
      - cmd: chatmail systemd reads its units
{% endfor %}

chatmail dovecot_objects are checked when Dovecot changes:
  chatmail_service.running:
    - name: chatmail-dovecot-objects.path
    - watch:
      - file: chatmail-dovecot-objects path unit
    - require:
      - cmd: chatmail systemd reads its units
      # An installation of Dovecot would start the program, which may not be there yet.
      - chatmail_package: chatmail dovecot packages
      - file: chatmail program
{%- endif %}
