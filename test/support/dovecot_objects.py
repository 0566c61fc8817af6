"""The objects that programs of Dovecot load on a relay under test."""

import contextlib


def path_of(program):
    """Return the path of a program's object."""
    return f"/usr/local/lib/chatmail/dovecot_objects/{program}.so"


@contextlib.contextmanager
def without_object(relay, program):
    """Let a program of Dovecot run as Debian ships it, within a `with` block."""
    path = path_of(program)
    relay.run(f"mv {path} {path}.away && systemctl restart dovecot")
    yield
    relay.run(f"mv {path}.away {path} && systemctl restart dovecot")
