"""The files that an operator may have in `chatmail_local` (docs/local.md)."""

# {name of the operator's file: the configuration that gets its lines}
PATHS = {
    "main.cf": "/etc/postfix/main.cf",
    "master.cf": "/etc/postfix/master.cf",
    "dovecot.conf": "/etc/dovecot/dovecot.conf",
    "nginx.conf": "/etc/nginx/nginx.conf",
    "unbound.conf": "/etc/unbound/unbound.conf",
}
