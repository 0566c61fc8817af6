{#- Fails while a foreign program listens on a port that the relay needs. Needs nothing. It runs before all other
    states, so nothing on such a machine changes. -#}
include:
  - chatmail.modules

chatmail ports of the relay are free:
  chatmail_relay.ports_free:
    - name: chatmail
    - failhard: True
    - order: 2
