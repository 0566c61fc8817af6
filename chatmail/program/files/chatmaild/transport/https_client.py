"""Delivery by HTTPS: `POST https://<host>/mxdeliv`, over connections that are kept."""

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

# One attempt from start to answer. What a relay took and we gave up would arrive twice, so ours
# answers in time (gateway.END_SECONDS + REPLY_SECONDS = 150 s after CONNECTED_SECONDS at most).
HTTPS_SECONDS = 180
# A silent host costs less: so long until TLS is there, for a piece of the message to go out, and
# for the answer once all has (the gateway's 40 s, and 20 s for what the kernel still holds).
CONNECTED_SECONDS = 20
PIECE_SECONDS = 30
ANSWER_SECONDS = 60
# nginx keeps an idle connection for 75 s; ours end before, so that the two ends rarely race.
KEEP_SECONDS = 60
MAX_ANSWER = 1000
# Octets of an answer that are looked at, with its header and what precedes it. Ours has 200.
MAX_RECEIVED = 64 * 1024
# Of what an HTTP server says only an SMTP reply goes further, into the log and into bounces: a
# host that was never meant to be asked must not talk to our users through us.
REPLY = re.compile(r"[2-5][0-9]{2}[ -][ -~]{0,200}")

# What relays answer once they took a message: filtermail "250 OK" without a type, madmail "OK" as
# text or, its older versions, nothing at all; ours "250 2.0.0 …" as text. Any other 200 is that of
# a web server which answers every path: taken for a relay's it would swallow mail.
TAKEN = re.compile(r"2[0-9]{2}[ -]|ok\s*\Z", re.I)

# The addresses that the host of the running task was checked to have.
_addresses: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("addresses")


class HttpsFailed(Exception):
    """Not accepted by HTTPS.

    kind: "answer", and if there was none, why: "timeout", "tls" or "connection".
    """

    def __init__(self, text: str, kind: str):
        super().__init__(text)
        self.kind = kind


class _Resolver(AbstractResolver):
    """Gives aiohttp the addresses that were checked: a second look-up could give others."""

    async def resolve(self, host, port=0, family=0):
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
    """Until when the next thing has to happen, and until when all of it."""

    def __init__(self):
        self._clock = asyncio.get_running_loop().time
        self._end = self._clock() + HTTPS_SECONDS
        self.all_sent = False
        self.expect(CONNECTED_SECONDS)

    def expect(self, seconds: float) -> None:
        """Something went on; the next thing has so long."""
        self._next = self._clock() + seconds

    def seconds_left(self) -> float:
        return min(self._next, self._end) - self._clock()


class HttpsClient:
    """Posts messages. Made within a running event loop.

    port, verified: replaced by tests; a port of 443 and the system's CAs otherwise.
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
                # How many at once is decided in one place, for HTTPS and SMTP together.
                limit=0,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Nobody asked for compression, and a kilobyte of it may be a gigabyte.
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            response_class=_Response,
            trace_configs=[reused],
        )

    async def close(self) -> None:
        """Close the connections that are kept."""
        await self._session.close()

    async def post(
        self, host: Host, sender: str, recipients: Iterable[str], message: Message
    ) -> None:
        """Hand a message over for all recipients. Raises HttpsFailed."""
        # A task of its own, since aiohttp 3.8 (Debian 12) leaves a task marked as cancelled after
        # a time-out; Python 3.11.2 would then take the next time-out for a cancellation.
        progress = _Progress()
        task = asyncio.create_task(self._post(host, sender, recipients, message, progress))
        try:
            while not task.done():
                if progress.seconds_left() <= 0:
                    raise TimeoutError
                await asyncio.wait({task}, timeout=progress.seconds_left())
            task.result()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise HttpsFailed(*_reason(error)) from None
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _post(self, host, sender, recipients, message, progress) -> None:
        # A kept connection that the other side closes as we write on it says nothing about the
        # host. Only on a fresh one is that a failure.
        _addresses.set(host.addresses)
        while not await self._post_once(host, sender, recipients, message, progress):
            progress.expect(CONNECTED_SECONDS)

    async def _post_once(self, host, sender, recipients, message, progress) -> bool:
        """Post; return False if a connection that had been kept was closed without an answer."""
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
            # nauta.cu's exception is for SMTP: HTTPS without a trusted certificate is not asked.
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
    """Return what an answer begins with, and of one that breaks off nothing."""
    try:
        return (await response.content.read(MAX_ANSWER)).decode("ascii", "replace")
    except (aiohttp.ClientError, OSError):
        return ""


def _is_taken(content_type: str, text: str) -> bool:
    """Tell whether a 200 is that of a relay which has the message now."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("", "text/plain"):
        return False
    return TAKEN.match(text) is not None or not (kind or text)


def _find_reply(text: str) -> str:
    """Return the SMTP reply that an answer begins with, an empty string if it is none."""
    found = REPLY.match(text)
    return found[0] if found else ""


def _reason(error: Exception) -> tuple[str, str]:
    """Say in a few words what failed, and its kind."""
    if isinstance(error, asyncio.TimeoutError):
        return "timed out", "timeout"
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    if isinstance(cause or error, ssl.SSLError):
        return f"TLS failed: {tls_reason(cause or error)}", "tls"
    # aiohttp's texts may quote what the other side sent.
    return getattr(cause or error, "strerror", None) or type(error).__name__, "connection"


def tls_context(verified: bool) -> ssl.SSLContext:
    """Return a client's TLS 1.2 or newer, trusting the system's CAs or anybody.

    The CAs come from the directory /etc/ssl/certs, which OpenSSL reads as it needs them: a CA
    that is added later counts without a restart.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python 3.13 also wants RFC 5280's extensions of every CA; whom mail reaches is not to
    # depend on our release.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
