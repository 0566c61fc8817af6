{#- Realtime between clients: STUN and TURN for calls, and an iroh relay unless `iroh_relay` names another one. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - .turn
  - {{ ".iroh" if relay.iroh_relay is none else ".iroh_absent" }}
