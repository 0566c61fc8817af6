{#- Metrics for Prometheus, where `metrics_address` says at which address; else nothing is counted and nobody listens. -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - {{ ".absent" if relay.metrics_address is none else ".endpoint" }}
