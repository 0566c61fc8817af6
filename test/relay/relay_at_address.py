"""Another relay, at the address of this side: it takes mail by HTTPS and SMTP, and brings some."""

import asyncio
import contextlib
import fcntl
import http.client
import socket
import threading

from relay.client import tls_context
from support import transport_peers as peers


def own_address(relay):
    """Return the address of this host that the relay sees."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: connecting a datagram socket only chooses the address.
        probe.connect((relay.ip, 9))
        return probe.getsockname()[0]


@contextlib.contextmanager
def other_relay(address, directory):
    """Take mail at an address literal, by HTTPS and SMTP; gives the two peers."""
    https, smtp_server = peers.HttpsPeer(), peers.SmtpPeer()
    context = peers.Authority(directory).server(address)
    loop, ready, done = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve():
        async with https.at(address, 443, context), smtp_server.at(address, 25, context):
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    # Tests of the other release may run beside these, and all have one address.
    with open("/run/lock/chatmail-test-relay", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread.start()
        try:
            assert ready.wait(10)
            yield https, smtp_server
        finally:
            loop.call_soon_threadsafe(done.set)
            thread.join()


def mxdeliv(relay, sender, recipient, message):
    """Bring a message over HTTPS as another relay does; returns the status."""
    connection = http.client.HTTPSConnection(relay.domain, 443, context=tls_context(), timeout=20)
    headers = {"X-Mail-From": sender, "X-Mail-To": recipient}
    with contextlib.closing(connection):
        connection.request("POST", "/mxdeliv", message, headers)
        return connection.getresponse().status
