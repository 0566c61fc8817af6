"""Retention: it removes old mail and unused addresses, cuts full mailboxes, and reports numbers."""
