"""Messages from relay to relay, for the runner chatmail_fleet.ping."""
