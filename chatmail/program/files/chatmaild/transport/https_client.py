"""Delivery by HTTPS: `POST https://<host>/mxdeliv`. Connections are kept and used again."""

import asyncio
import contextvars
import re
import ssl
from collections.abc import AsyncIterator, Iterable

import aiohttp
from aiohttp.abc import AbstractResolver

from chatmaild.message.spool import Message
from chatmaild.transport.destinations import Host, Tls
from chatmaild.transport.smtp_client import CONNECT_SECONDS, tls_reason

# Seconds for one try from its start to the answer. A message that the other relay accepts after we
# gave up would arrive twice. So our own gateway answers within this time: CONNECTED_SECONDS +
# gateway.END_SECONDS + gateway.REPLY_SECONDS = 20 + 120 + 30 s.
HTTPS_SECONDS = 180
# A silent host takes less time. CONNECTED_SECONDS are for the connection with TLS, PIECE_SECONDS
# for sending a piece of the message, ANSWER_SECONDS for the answer after the last piece: 40 s for
# the gateway, and 20 s for bytes that the kernel still holds.
CONNECTED_SECONDS = 20
PIECE_SECONDS = 30
ANSWER_SECONDS = 60
# nginx closes an idle connection after 75 s. We close ours earlier, so that a request rarely meets
# a connection that nginx closes at that moment.
KEEP_SECONDS = 60
MAX_ANSWER = 1000
# Bytes of an answer that are read at most, with its header and interim answers. Ours has 200.
MAX_RECEIVED = 64 * 1024
# From the answer of an HTTP server, only an SMTP reply gets into the log and into bounces. Another
# server than a relay must not be able to send texts to our users.
REPLY = re.compile(r"[2-5][0-9]{2}[ -][ -~]{0,200}")

# The answers of relays that took a message. filtermail answers "250 OK" without a content type.
# madmail answers "OK" as text; its older versions answer nothing. This relay answers "250 2.0.0 …"
# as text. Another answer with status 200 comes from a web server that answers every path. If it
# counted as accepted, the mail would be lost.
TAKEN = re.compile(r"2[0-9]{2}[ -]|ok\s*\Z", re.I)

# The checked addresses of the host to which the running task delivers.
_addresses: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("addresses")


class HttpsFailed(Exception):
    """The host did not accept the message by HTTPS.

    kind: "answer" when the host answered, else "timeout", "tls" or "connection".
    """

    def __init__(self, text: str, kind: str):
        super().__init__(text)
        self.kind = kind


class _Resolver(AbstractResolver):
    """Gives aiohttp the checked addresses, because a second lookup could give other ones."""

    async def resolve(self, host, port, family):
        return [
            {"hostname": host, "host": a, "port": port, "family": 0, "proto": 0, "flags": 0}
            for a in _addresses.get()
        ]

    async def close(self):
        pass


class _Response(aiohttp.ClientResponse):
    """An answer that ends the connection where it has more than MAX_RECEIVED octets.

    Debian 13's aiohttp (3.11) takes header fields without end: 1.8 GB came in six seconds. Other
    releases read interim answers without end, too.
    """

    async def start(self, connection):
        """Count from here on; aiohttp calls this for each request."""
        protocol, left = connection.protocol, MAX_RECEIVED
        transport, receive = connection.transport, type(protocol).data_received

        def receive_some(data):
            nonlocal left
            if left:
                receive(protocol, data[:left])
            left = max(0, left - len(data))
            if not left:
                transport.abort()

        protocol.data_received = receive_some
        return await super().start(connection)


class _Progress:
    """Two deadlines: one for the next step of a try, and one for the whole try."""

    def __init__(self):
        self._clock = asyncio.get_running_loop().time
        self._end = self._clock() + HTTPS_SECONDS
        self.all_sent = False
        self.expect(CONNECTED_SECONDS)

    def expect(self, seconds: float) -> None:
        """Note that a step was done, and give the next step this time."""
        self._next = self._clock() + seconds

    def seconds_left(self) -> float:
        return min(self._next, self._end) - self._clock()


class HttpsClient:
    """Posts messages. Make the object inside a running event loop.

    verified, unverified: TLS contexts. port: the port of HTTPS. Tests replace them.
    """

    def __init__(
        self,
        verified: ssl.SSLContext,
        unverified: ssl.SSLContext,
        port: int = 443,
    ):
        self._contexts = {Tls.VERIFIED: verified, Tls.UNVERIFIED: unverified}
        self._port = port
        reused = aiohttp.TraceConfig()
        reused.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_Resolver(),
                use_dns_cache=False,
                keepalive_timeout=KEEP_SECONDS,
                # delivery.py limits the number of connections, for HTTPS and SMTP together.
                limit=0,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            # We do not ask for compression. One compressed kilobyte could become a gigabyte.
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            response_class=_Response,
            trace_configs=[reused],
        )

    async def close(self) -> None:
        """Close the idle connections."""
        await self._session.close()

    async def post(
        self, host: Host, sender: str, recipients: Iterable[str], message: Message
    ) -> None:
        """Hand a message over for all recipients. Raises HttpsFailed."""
        # The request runs in its own task. aiohttp 3.8 (Debian 12) leaves a task marked as
        # cancelled after a time-out, and Python 3.11.2 would treat the next time-out as a
        # cancellation.
        progress = _Progress()
        task = asyncio.create_task(self._post(host, sender, recipients, message, progress))
        try:
            while not task.done():
                if progress.seconds_left() <= 0:
                    raise TimeoutError
                await asyncio.wait({task}, timeout=progress.seconds_left())
            task.result()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise HttpsFailed(*_describe_failure(error)) from None
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _post(self, host, sender, recipients, message, progress) -> None:
        # The other side may close a kept connection while we write. That is no failure of the host,
        # so the request is tried again, until it uses a new connection.
        _addresses.set(host.addresses)
        while not await self._post_once(host, sender, recipients, message, progress):
            progress.expect(CONNECTED_SECONDS)

    async def _post_once(self, host, sender, recipients, message, progress) -> bool:
        """Post the message; return False if a kept connection was closed without an answer."""
        trace = {"reused": False}
        progress.all_sent = False
        name = f"[{host.name}]" if ":" in host.name else host.name
        headers = [
            ("X-Mail-From", sender),
            *(("X-Mail-To", recipient) for recipient in recipients),
            ("Content-Type", "message/rfc822"),
            ("Content-Length", str(message.size)),
        ]
        request = self._session.post(
            f"https://{name}:{self._port}/mxdeliv",
            data=_body(message, progress),
            headers=headers,
            # The exception for nauta.cu is for SMTP only. HTTPS needs a trusted certificate there.
            ssl=self._contexts.get(host.tls, self._contexts[Tls.VERIFIED]),
            allow_redirects=False,
            trace_request_ctx=trace,
        )
        try:
            async with request as response:
                text = await _read_text(response)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if trace["reused"]:
                return False
            raise
        if response.status != 200:
            raise HttpsFailed(f"{response.status} {_find_reply(text)}".strip(), "answer")
        if not progress.all_sent:
            raise HttpsFailed("200 before it had the whole message", "answer")
        if not _is_taken(response.headers.get("Content-Type", ""), text):
            raise HttpsFailed("200, but not as a relay answers", "answer")
        return True


async def _note_reuse(_session, context, _params) -> None:
    context.trace_request_ctx["reused"] = True


async def _body(message: Message, progress: _Progress) -> AsyncIterator[bytes]:
    left = message.size
    for chunk in message.chunks():
        progress.expect(PIECE_SECONDS)
        left -= len(chunk)
        progress.all_sent = not left
        yield chunk
    progress.all_sent = True
    progress.expect(ANSWER_SECONDS)


async def _read_text(response: aiohttp.ClientResponse) -> str:
    """Return the beginning of an answer, or "" when the answer breaks off."""
    try:
        return (await response.content.read(MAX_ANSWER)).decode("ascii", "replace")
    except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError.
        return ""


def _is_taken(content_type: str, text: str) -> bool:
    """Return whether an answer with status 200 means that a relay accepted the message."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("", "text/plain"):
        return False
    return TAKEN.match(text) is not None or not (kind or text)


def _find_reply(text: str) -> str:
    """Return the SMTP reply at the beginning of an answer, or "" without one."""
    found = REPLY.match(text)
    return found[0] if found else ""


def _describe_failure(error: Exception) -> tuple[str, str]:
    """Return the text and the kind of HttpsFailed for an error."""
    if isinstance(error, asyncio.TimeoutError):
        return "timed out", "timeout"
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    if isinstance(cause or error, ssl.SSLError):
        return f"TLS failed: {tls_reason(cause or error)}", "tls"
    # The texts of aiohttp may quote bytes from the other side, so they are not used.
    return getattr(cause or error, "strerror", None) or type(error).__name__, "connection"


def tls_context(verified: bool) -> ssl.SSLContext:
    """Return a TLS context for a client: TLS 1.2 or newer.

    verified: trust only the system's CAs. Otherwise any certificate is accepted.
    OpenSSL reads the directory /etc/ssl/certs when it needs a CA, so a CA that is added later
    counts without a restart.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # By default Python 3.13 also requires the extensions of RFC 5280 in every CA certificate. Both
    # Debian releases must reach the same hosts.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
