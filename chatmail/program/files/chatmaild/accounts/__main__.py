"""chatmail-accounts: creates addresses, answers METADATA, and wakes devices.

One process does all three, because all three need the user vmail, and a Python process of its own
takes 11 MB.
"""

import asyncio
import signal

from chatmaild.accounts import registration
from chatmaild.common.journal import start_logging
from chatmaild.common.settings import load_settings
from chatmaild.common.systemd import notify
from chatmaild.metadata import service as metadata
from chatmaild.metrics import counters

# Dovecot and nginx ask here for new addresses.
HOST, PORT = "127.0.0.1", 3461


async def main():
    """Serve until systemd stops the service, and answer the requests that are under way."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = load_settings()
    server = registration.server(settings)
    async with metadata.running(settings):
        await server.listen(HOST, PORT)
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
        await server.stop()


if __name__ == "__main__":
    start_logging()
    counters.start("accounts")
    asyncio.run(main())
