"""The service for METADATA and push: answers Dovecot on a Unix socket, and wakes devices."""

import asyncio
import signal
import socket
from functools import partial
from pathlib import Path

from chatmaild.common.journal import start_logging
from chatmaild.common.settings import load_settings
from chatmaild.common.systemd import notify
from chatmaild.metadata import deliveries, dictionary
from chatmaild.metadata.notifier import Notifier
from chatmaild.metrics import counters

# systemd makes the parent directories: RuntimeDirectory= and StateDirectory= of the unit.
SOCKET = Path("/run/chatmail-metadata/dict")
DELIVERED = Path("/run/chatmail-metadata/delivered")
PENDING = Path("/var/lib/chatmail-metadata/pending")
# After a restart of Dovecot, all clients connect at the same time.
BACKLOG = 4096


async def main():
    """Serve until systemd stops the service."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = load_settings()
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
            notify("READY=1")
            await stop.wait()
            notify("STOPPING=1")
        # The connections end with the event loop. No change is lost: each one is on disk before
        # its reply.
        server.close()


if __name__ == "__main__":
    start_logging()
    counters.start("metadata")
    asyncio.run(main())
