"""Lets Dovecot's imap tell connected clients of a message at once, by an object that it loads."""
