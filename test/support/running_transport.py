"""chatmail-transport under test: in the tests' own process, and as a process of its own."""

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path

from chatmaild.common.federation import Federation
from chatmaild.common.http_client import tls_context
from chatmaild.transport import delivery as delivery_module
from chatmaild.transport.delivery import Delivery, Transactions
from chatmaild.transport.destinations import Destinations
from chatmaild.transport.https_client import HttpsClient
from chatmaild.transport.lmtp import LmtpServer
from cryptography.hazmat.primitives import serialization
from support.transport_peers import LOOPBACK, MESSAGE, dns_server, free_port, lmtp_send


class Transport:
    """The service under test, with its Delivery. After `listen` it has an LMTP socket, too."""

    def __init__(self, delivery, https, destinations, dns_server, ports, spool, clock):
        self.delivery = delivery
        self.https = https
        self.destinations = destinations
        self.dns = dns_server
        self.https_port, self.smtp_port = ports
        self.spool = spool
        self.clock = clock
        self.lmtp = None

    async def listen(self, path, max_size=64 * 2**20):
        start = Transactions(self.delivery.to_domain).start
        self.lmtp = LmtpServer(start, "ours.example", max_size, str(self.spool))
        await self.lmtp.listen(str(path))
        return str(path)


class Clock:
    """A clock that a test can set forward."""

    def __init__(self):
        self.ahead = 0

    def __call__(self):
        return asyncio.get_running_loop().time() + self.ahead


@contextlib.asynccontextmanager
async def transport(
    zone,
    authority,
    spool,
    use_ipv6=True,
    is_ours=lambda _: False,
    block=(),
    private_networks=LOOPBACK,
):
    """Run the part of the service that sends, with the DNS records of `zone`.

    block: domains to which the service sends nothing.
    """
    lists = {"block": block, "allow": []}
    async with dns_server(zone) as (server, resolver):
        ports = free_port(), free_port()
        clock = Clock()
        destinations = Destinations(
            ("ours.example",), use_ipv6, resolver, is_ours, private_networks
        )
        verified, unverified = authority.client(), tls_context(False)
        https = HttpsClient(verified, unverified, ports[0])
        federation = Federation({"address_domain": "ours.example", "federation": lists})
        delivery = Delivery(
            destinations, https, "ours.example", verified, unverified, federation, ports[1], clock
        )
        made = Transport(delivery, https, destinations, server, ports, spool, clock)
        try:
            yield made
        finally:
            if made.lmtp:
                await made.lmtp.stop(0)
            await https.close()


# The service as on a relay, except for its ports, its resolver and a CA of the test.
PROCESS = """
import functools, sys
import dns.asyncresolver
from chatmaild.common import http_client
from chatmaild.transport import __main__, delivery, destinations, https_client, sending

directory, ca, dns_port, https_port, smtp_port, mxdeliv_port = sys.argv[1:]

def resolver():
    made = dns.asyncresolver.Resolver(configure=False)
    made.nameservers, made.port = ["127.0.0.1"], int(dns_port)
    return made

def tls_context(verified):
    context = http_client.tls_context(verified)
    context.load_verify_locations(ca)
    return context

destinations.system_resolver = resolver
sending.tls_context = tls_context
sending.Destinations = functools.partial(destinations.Destinations, is_ours=lambda _: False)
sending.HttpsClient = functools.partial(https_client.HttpsClient, port=int(https_port))
sending.Delivery = functools.partial(delivery.Delivery, smtp_port=int(smtp_port))
__main__.LMTP_SOCKET = directory + "/lmtp"
__main__.MXDELIV = ("127.0.0.1", int(mxdeliv_port))
__main__.SPOOL = directory
__main__.load_settings = lambda: {
    "hostname": "ours.example", "mail_domain": "ours.example", "address_domain": "ours.example",
    "disable_ipv6": False, "max_message_size": 31457280,
    "federation": {"block": [], "allow": [], "private_networks": ["127.0.0.0/8"]},
}
__main__.main()
"""


@contextlib.contextmanager
def systemd(directory):
    """Open the socket on which systemd would listen for the messages of the service."""
    path = directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(path))
        notified.setblocking(False)
        try:
            yield notified
        finally:
            path.unlink()


@contextlib.asynccontextmanager
async def service(directory, authority, dns_port, ports, notified):
    """Run the service as a process. Yield it when it says that it is ready, kill it at the end."""
    ca = directory / "ca.pem"
    ca.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    arguments = (directory, ca, dns_port, *ports, free_port())
    code = str(Path(delivery_module.__file__).parents[2])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROCESS,
        *map(str, arguments),
        env=os.environ | {"PYTHONPATH": code, "NOTIFY_SOCKET": str(directory / "notify")},
        stderr=asyncio.subprocess.PIPE,
    )
    ended = asyncio.create_task(process.wait())
    notice = asyncio.create_task(asyncio.get_running_loop().sock_recv(notified, 100))
    try:
        async with asyncio.timeout(20):
            await asyncio.wait({ended, notice}, return_when=asyncio.FIRST_COMPLETED)
        assert notice.done(), (await process.stderr.read()).decode()
        assert notice.result() == b"READY=1"
        yield process
    finally:
        notice.cancel()
        if process.returncode is None:
            process.kill()
        await ended


# The domain of most tests, and its host.
MX = {("b.example", "MX"): ["10 mx.b.example."], ("mx.b.example", "A"): ["127.0.0.2"]}


@contextlib.asynccontextmanager
async def world(tmp_path, authority, zone=MX, https=None, smtp=None, tls="mx.b.example", **kwargs):
    """Run the service and one other relay at 127.0.0.2. Yield the service and its LMTP path."""
    async with contextlib.AsyncExitStack() as stack:
        ours = await stack.enter_async_context(transport(zone, authority, tmp_path, **kwargs))
        context = authority.server(tls) if isinstance(tls, str) else tls
        if https:
            await stack.enter_async_context(https.at("127.0.0.2", ours.https_port, context))
        if smtp:
            await stack.enter_async_context(smtp.at("127.0.0.2", ours.smtp_port, context))
        await ours.listen(tmp_path / "lmtp")
        yield ours, str(tmp_path / "lmtp")


def deliver(tmp_path, authority, recipients=("x@b.example",), data=MESSAGE, **kwargs):
    """Send one message through a `world`. Return the replies."""

    async def run():
        async with world(tmp_path, authority, **kwargs) as (_, path):
            return await lmtp_send(path, recipients, data)

    return asyncio.run(run())
