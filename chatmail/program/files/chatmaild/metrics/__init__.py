"""chatmail-metrics: the counters of the services, and the endpoint for Prometheus."""
