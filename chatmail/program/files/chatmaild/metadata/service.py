"""METADATA and push in chatmail-accounts: answers Dovecot on a Unix socket, wakes devices."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from chatmaild.metadata import deliveries, dictionary
from chatmaild.metadata.notifier import Notifier

# systemd makes the parent directories: RuntimeDirectory= and StateDirectory= of the unit.
SOCKET = Path("/run/chatmail-metadata/dict")
DELIVERED = Path("/run/chatmail-metadata/delivered")
PENDING = Path("/var/lib/chatmail-metadata/pending")
# After a restart of Dovecot, all clients connect at the same time.
BACKLOG = 4096


@contextlib.asynccontextmanager
async def running(settings: dict) -> AsyncIterator[None]:
    """Serve within the running event loop until the end of the block. Raises OSError.

    settings: the relay's settings.
    """
    for directory in (DELIVERED, PENDING):
        directory.mkdir(mode=0o700, exist_ok=True)
    family = socket.AF_INET if settings["disable_ipv6"] else 0
    async with Notifier(
        PENDING, settings["notification_url"], partial(dictionary.forget, settings), family
    ) as notifier:
        handler = partial(
            dictionary.serve,
            partial(dictionary.lookup, settings),
            partial(dictionary.change, settings),
        )
        server = await asyncio.start_unix_server(handler, SOCKET, backlog=BACKLOG)
        with deliveries.watching(DELIVERED, partial(dictionary.note_delivery, settings, notifier)):
            yield
        # The connections end with the event loop. No change is lost: each one is on disk before
        # its reply.
        server.close()
