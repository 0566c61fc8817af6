"""The peers of chatmail-transport on loopback: Postfix, DNS, HTTPS and SMTP servers, and a CA.

Each peer has its own address in 127.0.0.0/8. All peers use the same two ports.
"""

import asyncio
import contextlib
import datetime
import ipaddress
import logging
import secrets
import socket
import ssl

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from aiohttp import web
from aiosmtpd.smtp import SMTP
from chatmaild.common.http_client import tls_context
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# aiosmtpd logs every line of a message, and pytest would keep 30 MB of them. aiosmtpd also logs an
# error when a session ends early, which some tests do on purpose.
logging.getLogger("mail.log").setLevel(logging.CRITICAL)


# The networks of the peers.
LOOPBACK = ("127.0.0.0/8", "::1/128", "0.0.0.0/32")


MESSAGE = b"From: <a@ours.example>\r\nSubject: [...]\r\n\r\nhello\r\n"


class Authority:
    """A certificate authority. It makes server contexts, and the client context that trusts it."""

    def __init__(self, directory):
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = f"transport test CA {secrets.token_hex(4)}"
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._serial = 0
        self.certificate = self._sign(self._name, self._key.public_key(), [], ca=True)

    def _sign(self, subject, public_key, names, ca=False, days=1):
        now = datetime.datetime.now(datetime.UTC)
        ends = now + datetime.timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, ends) - datetime.timedelta(days=2))
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), False
            )
        return builder.sign(self._key, hashes.SHA256())

    def server(self, *names, days=1):
        """Return the TLS context of a server with a certificate for these names."""
        self._serial += 1
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "peer")])
        certificate = self._sign(subject, key.public_key(), names, days=days)
        path = self._directory / f"{self._serial}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def client(self):
        """Return the TLS context of the service. It trusts this CA beside those of the system."""
        context = tls_context(True)
        pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        context.load_verify_locations(cadata=pem)
        return context


def _general_name(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Dns(asyncio.DatagramProtocol):
    """A DNS server. `zone` maps (name, type) to records as text. Other names do not exist.

    For the value "SERVFAIL" it answers SERVFAIL, for "SILENT" it does not answer.
    """

    def __init__(self, zone):
        self.zone = zone
        self.asked = []

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        records = self.zone.get((name, kind), [])
        if records == "SILENT":
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if records == "SERVFAIL":
            response.set_rcode(dns.rcode.SERVFAIL)
        elif records:
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *records))
        elif not any(known == name for known, _ in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(response.to_wire(), address)


@contextlib.asynccontextmanager
async def dns_server(zone):
    """Run a Dns. Yield it and a resolver that asks it."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Dns(zone), ("127.0.0.1", 0))
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    try:
        yield server, resolver
    finally:
        transport.close()


def free_port(address="127.0.0.1"):
    with socket.socket() as sock:
        sock.bind((address, 0))
        return sock.getsockname()[1]


class HttpsPeer:
    """The /mxdeliv of another relay. Each request gets the next of `answers`, then 200.

    kind: the Content-Type of an answer.
    seconds: how long an answer takes.
    """

    def __init__(self, *answers, kind="text/plain"):
        self.answers = list(answers)
        self.kind = kind
        self.posts = []
        self.connections = set()
        self.dying = set()
        self.running = 0
        self.most = 0
        self.seconds = 0
        self.under_way = set()

    async def handle(self, request):
        if request.transport in self.dying:
            request.transport.abort()
            return web.Response()
        self.connections.add(request.transport)
        self.running += 1
        self.most = max(self.most, self.running)
        self.under_way.add(asyncio.current_task())
        try:
            body = await request.read()
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
            self.under_way.discard(asyncio.current_task())
        self.posts.append((request.headers.copy(), body))
        status, text = self.answers.pop(0) if self.answers else (200, "ok")
        response = web.Response(status=status, body=text.encode())
        if self.kind:
            response.content_type = self.kind
        else:
            # Without this, aiohttp adds its own Content-Type to an answer with a body.
            response.headers["Content-Type"] = ""
        return response

    @contextlib.asynccontextmanager
    async def at(self, address, port, context):
        application = web.Application(client_max_size=100 * 2**20)
        application.router.add_post("/mxdeliv", self.handle)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        self.site = web.TCPSite(runner, address, port, ssl_context=context)
        await self.site.start()
        try:
            yield self
        finally:
            # Otherwise aiohttp would wait for the slow requests.
            for task in self.under_way:
                task.cancel()
            await runner.cleanup()


class SmtpPeer:
    """A mail server by aiosmtpd. `refusals` maps a recipient or "DATA" to a reply."""

    def __init__(self, **refusals):
        self.refusals = refusals
        self.mails = []
        self.sessions = 0

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        self.sessions += 1
        session.host_name = hostname
        return responses

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        if "DATA" in self.refusals:
            return self.refusals["DATA"]
        self.mails.append((envelope, session.ssl))
        return "250 2.0.0 queued as X"

    @contextlib.asynccontextmanager
    async def at(self, address, port, context):
        loop = asyncio.get_running_loop()

        def session():
            return SMTP(
                self,
                tls_context=context,
                require_starttls=bool(context),
                data_size_limit=None,
                hostname="peer.example",
                loop=loop,
            )

        server = await loop.create_server(session, address, port)
        try:
            yield self
        finally:
            server.close()


class BlackHole:
    """A server that accepts connections and sends nothing. `hang_up` closes all of them."""

    def __init__(self):
        self.connections = 0
        self.done = asyncio.Event()

    @contextlib.asynccontextmanager
    async def at(self, address, port):
        async def serve(reader, writer):
            self.connections += 1
            await self.done.wait()
            writer.close()

        server = await asyncio.start_server(serve, address, port)
        try:
            yield self
        finally:
            self.hang_up()
            server.close()

    def hang_up(self):
        self.done.set()


async def lmtp_replies(reader, count):
    """Read this many replies. Return the last line of each as text."""
    replies = []
    while len(replies) < count:
        line = (await reader.readline()).decode()
        if not line:
            raise EOFError(replies)
        if line[3:4] != "-":
            replies.append(line.rstrip("\r\n"))
    return replies


async def lmtp_send(path, recipients, data=MESSAGE, sender="a@ours.example"):
    """Send a message as Postfix does. Return the reply to DATA for each recipient."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        commands = [
            "LHLO ours.example",
            f"MAIL FROM:<{sender}> SIZE={len(data)} BODY=8BITMIME",
            *(f"RCPT TO:<{recipient}>" for recipient in recipients),
            "DATA",
        ]
        writer.write("".join(f"{line}\r\n" for line in commands).encode())
        replies = await lmtp_replies(reader, len(commands) + 1)
        assert replies[-1].startswith("354"), replies
        stuffed = (b"\r\n" + data).replace(b"\r\n.", b"\r\n..")[2:]
        writer.write(stuffed + b".\r\nQUIT\r\n")
        await writer.drain()
        return (await lmtp_replies(reader, len(recipients) + 1))[:-1]
    finally:
        writer.close()


# The replies of a server in a session without TLS, from its greeting to the end of the message.
PLAIN_SMTP = [b"220 x\r\n", b"250 x\r\n", *[b"250 ok\r\n"] * 2, b"354 go\r\n", b"250 ok\r\n"]


def scripted(*sessions):
    """Return a server for asyncio.start_server. Each of `sessions` has the replies for one session.

    The server sends one reply for each command and closes the connection after the last one. After
    DATA it reads the whole message first.
    """
    sessions = list(sessions)

    async def serve(reader, writer):
        replies = list(sessions.pop(0))
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, IndexError):
            writer.write(replies.pop(0))
            while replies:
                line = await reader.readuntil(b"\r\n")
                writer.write(replies.pop(0))
                if line == b"DATA\r\n":
                    await reader.readuntil(b"\r\n.\r\n")
                    writer.write(replies.pop(0))
            await writer.drain()
        writer.close()

    return serve
