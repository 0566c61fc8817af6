"""Another relay at an address of this host, which accepts mail by HTTPS and SMTP and sends mail."""

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
        # Connecting a datagram socket sends nothing. It only chooses the address.
        probe.connect((relay.ip, 9))
        return probe.getsockname()[0]


@contextlib.contextmanager
def other_relay(address, directory):
    """Accept mail for an address literal by HTTPS and SMTP. Yield the two peers."""
    https, smtp_server = peers.HttpsPeer(), peers.SmtpPeer()
    context = peers.Authority(directory).server(address)
    loop, ready, done = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve():
        async with https.at(address, 443, context), smtp_server.at(address, 25, context):
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    # Tests of the other release may run at the same time, with the same address.
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
    """Send a message by HTTPS as another relay does. Return the status."""
    connection = http.client.HTTPSConnection(relay.domain, 443, context=tls_context(), timeout=20)
    headers = {"X-Mail-From": sender, "X-Mail-To": recipient}
    with contextlib.closing(connection):
        connection.request("POST", "/mxdeliv", message, headers)
        return connection.getresponse().status
