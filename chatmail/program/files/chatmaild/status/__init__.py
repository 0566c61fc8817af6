"""The state of this relay for its operator: units, certificate, keys, addresses and limits."""
