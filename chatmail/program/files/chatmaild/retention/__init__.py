"""Retention: what is past its time goes, full mailboxes shrink, a report says what is left."""
