"""Wakes idling IMAP clients that Dovecot, by itself, would leave asleep on a new message.

A live `imap` process tells an idling client of a change 500 ms later (NOTIFY_DELAY_MSECS in
Dovecot's mailbox-watch.c, 2.3 and 2.4 alike), and hands it to imap-hibernate after
`imap_hibernate_timeout`, 1 s. A message that comes within the half second before the handover is
told by neither: the pending notice is dropped, and imap-hibernate watches for the next change only.
So there is a next change soon after: a file that comes and goes in the directory that is watched.
"""

import asyncio
import os
from pathlib import Path

# Past the 500 ms, and before a client that was told at once is hibernated again.
DELAY = 0.8
# On a starved machine the handover may come later than that. What nobody has seen is still in
# `new`; these delays follow each other while that is so.
RETRIES = (3, 15)


def wake_soon(home: Path) -> None:
    """Wake the clients of an address shortly; call it when a message was delivered there.

    home: the address's directory, a maildir.
    """
    _schedule(Path(home) / "new", (DELAY, *RETRIES))


def _schedule(new: Path, delays: tuple[float, ...]) -> None:
    asyncio.get_running_loop().call_later(delays[0], _wake, new, delays[1:])


def _wake(new, delays):
    if touch(new) and delays and _has_unseen(new):
        _schedule(new, delays)


def touch(new: Path) -> bool:
    """Make a file come and go, which watchers of the directory see; False without a directory."""
    # Dovecot passes over names with a leading dot.
    mark = new / ".wake"
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        mark.unlink(missing_ok=True)
    except OSError:
        # The address is gone, or the disk is full: Dovecot has told whom it could.
        return False
    return True


def _has_unseen(new):
    """Return whether messages lie there that no IMAP session has taken note of."""
    try:
        with os.scandir(new) as entries:
            return any(entries)
    except OSError:
        return False
