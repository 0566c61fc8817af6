"""The services of a chatmail relay: what Postfix and Dovecot cannot do by themselves."""
