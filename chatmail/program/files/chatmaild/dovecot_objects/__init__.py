"""Makes and checks the objects that programs of Dovecot load."""
