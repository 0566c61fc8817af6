"""Dovecot's dict protocol, METADATA, push notifications and the last login."""
