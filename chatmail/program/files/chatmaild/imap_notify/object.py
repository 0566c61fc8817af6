"""The object that Dovecot's imap loads, and whether it is in use."""

from pathlib import Path

FOLDER = Path("/usr/local/lib/chatmail/imap_notify")
# While this file exists, each new imap process runs with it (chatmail/dovecot/files/imap).
OBJECT = FOLDER / "imap_notify.so"


def tells_at_once() -> bool:
    """Return whether a connected client hears of a message at once, not after half a second."""
    return OBJECT.exists()
