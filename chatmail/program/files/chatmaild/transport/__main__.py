"""chatmail-transport: sends mail to other relays, and receives mail at `/mxdeliv`.

Postfix hands over mail for other domains by LMTP. nginx passes on HTTPS requests of other relays.
"""

import asyncio
import logging
import os
import signal

from chatmaild.common.journal import start_logging
from chatmaild.common.settings import load_settings
from chatmaild.common.systemd import notify
from chatmaild.metrics import counters
from chatmaild.transport.gateway import Gateway
from chatmaild.transport.lmtp import LmtpServer

LMTP_SOCKET = "/var/spool/postfix/chatmail-transport/lmtp"
MXDELIV = ("127.0.0.1", 3462)
# This directory is on disk. /tmp would be memory on Debian 13. The unit has a private directory.
SPOOL = "/var/tmp"
log = logging.getLogger(__name__)


class _Sending:
    """The half of the service that sends. The first message loads it.

    It needs 8 MB for DNS and TLS, and a third of the time of a start.
    """

    def __init__(self, settings):
        self._settings = settings
        self._loaded = None

    def start(self, sender, recipients, message):
        if self._loaded is None:
            from chatmaild.transport.sending import Sending

            self._loaded = Sending(self._settings)
        return self._loaded.start(sender, recipients, message)

    async def close(self):
        if self._loaded is not None:
            await self._loaded.close()


async def run(settings: dict) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    name = settings["hostname"]
    sending = _Sending(settings)
    # Postfix counts a line end as one byte. With CR LF, a message has at most twice that size.
    max_size = 2 * settings["max_message_size"]
    lmtp = LmtpServer(sending.start, name, max_size, SPOOL)
    gateway = Gateway(name, settings["max_message_size"], SPOOL)
    # When it stops, it waits 60 s for its handlers, as the LMTP server does.
    mxdeliv = gateway.server()

    await lmtp.listen(LMTP_SOCKET)
    # A client needs write permission to connect. The directory admits only Postfix and this user.
    os.chmod(LMTP_SOCKET, 0o666)
    await mxdeliv.listen(*MXDELIV, backlog=1024)
    notify("READY=1")
    await stop.wait()
    notify("STOPPING=1")
    await asyncio.gather(lmtp.stop(), mxdeliv.stop())
    await sending.close()


def main() -> None:
    """Start the service."""
    start_logging()
    counters.start("transport")
    asyncio.run(run(load_settings()))


if __name__ == "__main__":
    main()
