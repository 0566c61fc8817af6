{#- Metrics for Prometheus, if `metrics_address` has an address. Otherwise nothing is counted and there is no endpoint.
    -#}
{% from "chatmail/settings.jinja" import relay with context %}

include:
  - {{ ".absent" if relay.metrics_address is none else ".endpoint" }}
