"""Makes and checks the objects that Dovecot's imap and imap-login load."""
