{#- Refuses to go on while a foreign program listens on a port that the relay needs. Needs nothing and runs before
    everything else: a machine that is not free is left as it was. -#}
include:
  - chatmail.modules

ports of the relay are free:
  chatmail_relay.ports_free:
    - name: chatmail
    - failhard: True
    - order: 2
