"""What several services share: settings, log, systemd, files, addresses, rate limit, refusals."""
