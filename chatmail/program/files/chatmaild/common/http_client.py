"""An HTTP/1.1 client that posts to other servers and keeps its connections.

h11 reads and writes the protocol (RFC 9112). It takes no more of an answer than it is told to, and
needs 0.5 MB of memory. aiohttp needs 9 MB, and its version in Debian 13 takes header fields without
end.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import h11

# Seconds that a connection is kept. nginx closes an idle one after 75 s. We close ours earlier, so
# that a request rarely meets a connection that nginx closes at that moment.
KEEP_SECONDS = 60
MAX_READ = 16 * 1024
# Bytes of an answer that are received at most, with its header and interim answers.
MAX_RECEIVED = 64 * 1024
# Bytes of the body that are returned.
MAX_TEXT = 1000
# The system's CAs, each in a file that is named after its hash (update-ca-certificates(8)).
CAS = "/etc/ssl/certs"


class NoAnswer(ConnectionError):
    """No HTTP answer came. The text has no bytes of the other side."""


class _Closed(NoAnswer):
    """The other side closed the connection before it answered a single byte."""


class Origin(NamedTuple):
    """A server: the name for the certificate and the header Host, where to connect to, and TLS.

    addresses: IP addresses, or names that the system looks up. context: None for plain HTTP.
    family: socket.AF_INET to connect over IPv4 only.
    """

    name: str
    port: int
    addresses: tuple[str, ...]
    context: ssl.SSLContext | None
    family: int = 0

    def host(self) -> str:
        """Return the value of the header Host."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port == (443 if self.context else 80) else f"{name}:{self.port}"


class Answer(NamedTuple):
    """The answer of a server. text: the beginning of its body."""

    status: int
    content_type: str
    text: str


class HttpClient:
    """Posts within the running event loop. The caller limits the time and the number of requests.

    connect_seconds: the time for one address to connect, with TLS.
    """

    def __init__(self, connect_seconds: float):
        self._connect_seconds = connect_seconds
        # The idle connections of each server, and the task that watches a connection.
        self._idle: dict[tuple, dict[_Connection, asyncio.Task]] = {}

    async def close(self) -> None:
        """Close the idle connections."""
        for connection in [each for idle in self._idle.values() for each in idle]:
            connection.close()
        self._idle.clear()

    async def post(
        self,
        origin: Origin,
        target: str,
        headers: Iterable[tuple[str, str]],
        body: Callable[[], Iterator[bytes]],
    ) -> Answer:
        """Return the answer to a POST. A redirect is not followed.

        target: path and query. headers: the fields besides Host, with Content-Length.
        body: returns the pieces of the body. It is called again if a kept connection turns out to
            be closed: the other side may close it while we write.
        Raises NoAnswer and other OSErrors, and ValueError for a field that HTTP forbids.
        """
        fields = [("Host", origin.host()), *headers]
        try:
            head = h11.Request(
                method="POST",
                target=target,
                headers=[(name, value.encode()) for name, value in fields],
            )
        except h11.LocalProtocolError:
            raise ValueError("a header field has characters that HTTP forbids") from None
        while kept := await self._take(origin):
            with contextlib.suppress(_Closed):
                return await self._post(origin, kept, head, body)
        return await self._post(origin, await self._connect(origin), head, body)

    async def _post(self, origin, connection, head, body):
        try:
            answer = await connection.post(head, body)
            if connection.may_be_kept():
                self._keep(origin, connection)
            return answer
        finally:
            if not connection.kept:
                connection.close()

    async def _connect(self, origin):
        """Connect to the first address that answers. Raises OSError."""
        for address in origin.addresses:
            try:
                async with asyncio.timeout(self._connect_seconds):
                    streams = await asyncio.open_connection(
                        address,
                        origin.port,
                        ssl=origin.context,
                        server_hostname=origin.name if origin.context else None,
                        family=origin.family,
                    )
                return _Connection(*streams)
            except OSError as error:  # TimeoutError and the errors of TLS are OSErrors.
                failure = error
        raise failure

    def _keep(self, origin, connection):
        connection.kept = True
        key = origin.name, origin.port, origin.context
        watch = asyncio.create_task(self._watch(key, connection))
        self._idle.setdefault(key, {})[connection] = watch

    async def _take(self, origin):
        """Return an idle connection to the server, or None."""
        key = origin.name, origin.port, origin.context
        while idle := self._idle.get(key):
            connection, watch = idle.popitem()
            watch.cancel()
            try:
                await asyncio.wait({watch})
            except asyncio.CancelledError:
                connection.close()
                raise
            if watch.cancelled():
                connection.kept = False
                return connection
        return None

    async def _watch(self, key, connection):
        """Close a connection that is idle for too long, is closed, or talks without being asked."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(KEEP_SECONDS):
                await connection.wait()
        connection.close()
        idle = self._idle.get(key, {})
        idle.pop(connection, None)
        if not idle:
            self._idle.pop(key, None)


class _Connection:
    """One connection to a server: h11 between the two streams."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_RECEIVED)
        self._left = 0
        self.kept = False

    def close(self):
        self._writer.transport.abort()

    async def wait(self):
        await self._reader.read(1)

    def may_be_kept(self):
        """Return whether the connection is ready for another request."""
        done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        # What comes after an answer would count as the answer to the next request.
        if not done or self._h11.trailing_data[0]:
            return False
        self._h11.start_next_cycle()
        return True

    async def post(self, head, body):
        self._left = MAX_RECEIVED
        # The other side may answer before it has the whole body, and then read no more of it.
        sending = asyncio.create_task(self._send(head, body))
        try:
            return await self._read_answer()
        finally:
            sending.cancel()
            await asyncio.wait({sending})
            if not sending.cancelled():
                sending.exception()  # The answer, or its absence, has told it already.

    async def _send(self, head, body):
        try:
            self._writer.write(self._h11.send(head))
            for piece in body():
                self._writer.write(self._h11.send(h11.Data(data=piece)))
                await self._writer.drain()
            self._h11.send(h11.EndOfMessage())
        except (OSError, h11.LocalProtocolError):
            self.close()  # So the answer is awaited no longer.
            raise

    async def _read_answer(self):
        event = await self._next_event()
        while type(event) is h11.InformationalResponse:
            event = await self._next_event()
        fields = {name: value.decode("latin-1") for name, value in event.headers}
        text = b""
        # An answer that breaks off has a status and a part of its text.
        with contextlib.suppress(OSError):
            while len(text) < MAX_TEXT and type(piece := await self._next_event()) is h11.Data:
                text += piece.data
        return Answer(
            event.status_code,
            fields.get(b"content-type", ""),
            text[:MAX_TEXT].decode("ascii", "replace"),
        )

    async def _next_event(self):
        """Return the next event of h11. Raises NoAnswer and other OSErrors."""
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                data = await self._read()
                if not data and self._left == MAX_RECEIVED:
                    raise _Closed("closed the connection without an answer")
                self._left -= len(data)
                if self._left < 0:
                    raise NoAnswer(f"answered more than {MAX_RECEIVED} bytes")
                self._h11.receive_data(data)
        except h11.RemoteProtocolError:
            raise NoAnswer("answered something that is not HTTP") from None
        return event

    async def _read(self):
        try:
            return await self._reader.read(MAX_READ)
        except ConnectionError:
            return b""


def tls_context(verified: bool) -> ssl.SSLContext:
    """Return a TLS context for a client: TLS 1.2 or newer.

    verified: trust only the system's CAs. Otherwise any certificate is accepted.
    OpenSSL reads a CA from the directory CAS when it needs it, so a CA that is added later counts
    without a restart. By default it would read all of them at once, which takes 16 ms and 0.9 MB
    for each context (144 CAs).
    """
    context = ssl.create_default_context(capath=CAS)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # By default Python 3.13 also requires the extensions of RFC 5280 in every CA certificate. Both
    # Debian releases must reach the same hosts.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
