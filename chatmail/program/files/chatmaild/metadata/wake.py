"""Wakes IMAP clients in IDLE that stock Dovecot would not tell about a new message.

With the object that `imap_notify` is about, Dovecot tells each client and this module does nothing.
Without it, a live `imap` process tells a client about a change after 500 ms (NOTIFY_DELAY_MSECS in
Dovecot's mailbox-watch.c, in 2.3 and 2.4). After `imap_hibernate_timeout`, 1 s, it hands the client
to imap-hibernate. When a message comes in the last 500 ms before that, neither of the two tells the
client: the pending notice is dropped, and imap-hibernate waits for the next change. So this module
makes a next change soon after: it creates and removes a file in the watched directory.
"""

import asyncio
import os
from pathlib import Path

from chatmaild.dovecot_objects.objects import tells_at_once

# Seconds. This is after the 500 ms, and before Dovecot hibernates a client again that got the
# message at once.
DELAY = 0.8
# On an overloaded machine the handover may come later than that. A message that no client has seen
# is still in `new`. While there is one, the module tries again after these times, in seconds.
RETRIES = (3, 15)


def wake_soon(home: Path) -> None:
    """Wake the clients of an address soon. Call this when a message was delivered to the address.

    home: the directory of the address, a maildir.
    """
    if not tells_at_once():
        _schedule(Path(home) / "new", (DELAY, *RETRIES))


def _schedule(new: Path, delays: tuple[float, ...]) -> None:
    asyncio.get_running_loop().call_later(delays[0], _wake, new, delays[1:])


def _wake(new, delays):
    if touch(new) and delays and _has_unseen(new):
        _schedule(new, delays)


def touch(new: Path) -> bool:
    """Create and remove a file, which watchers of the directory notice.

    Returns False when this is impossible, for example without the directory.
    """
    # Dovecot ignores names that begin with a dot.
    mark = new / ".wake"
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        mark.unlink(missing_ok=True)
    except OSError:
        # The address does not exist any more, or the disk is full. There is nothing else to do.
        return False
    return True


def _has_unseen(new):
    """Return whether the directory has messages that no IMAP session has noticed."""
    try:
        with os.scandir(new) as entries:
            return any(entries)
    except OSError:
        return False
