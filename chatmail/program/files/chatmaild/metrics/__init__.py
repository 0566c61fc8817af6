"""chatmail-metrics: what the services count, and the endpoint that tells Prometheus."""
