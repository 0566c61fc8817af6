"""An HTTP/1.1 server for requests from this machine: from nginx, Dovecot and Salt.

h11 reads and writes the protocol (RFC 9112). It needs 0.5 MB of memory, aiohttp needs 12 MB.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import h11

# Bytes of the largest header without a limit of the service's own, and of one read.
MAX_HEADER = 16 * 1024
MAX_READ = 64 * 1024
# Seconds that a client may wait until its request begins, and until its header is complete.
IDLE_SECONDS = 75
HEADER_SECONDS = 30
# Seconds that a client may go on sending after its answer. Without them, the kernel would reset
# the connection, and the client might not see the answer.
LINGER_SECONDS = 10
# Seconds for requests to end when the service stops.
STOP_SECONDS = 60

log = logging.getLogger(__name__)


@dataclass
class Response:
    """An answer with a text."""

    status: int = 200
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "text/plain"


def json_response(content, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer with a value as JSON."""
    return Response(status, json.dumps(content), headers or {}, "application/json")


class Request:
    """A request whose header was read. The handler reads the body."""

    def __init__(self, connection: "_Connection", head: h11.Request):
        self.method = head.method.decode()
        self.path, _, self._query = head.target.decode("ascii").partition("?")
        self._headers = head.headers
        self._connection = connection

    def query(self, name: str) -> str:
        """Return the first value of a parameter in the URL, or an empty text."""
        return dict(reversed(parse_qsl(self._query))).get(name, "")

    def header(self, name: str) -> str:
        """Return the first value of a header field, or an empty text."""
        return next(iter(self.all_headers(name)), "")

    def all_headers(self, name: str) -> list[str]:
        """Return the values of all header fields of this name, which is in lower case."""
        wanted = name.encode()
        return [
            value.decode("utf-8", "surrogateescape")
            for found, value in self._headers
            if found == wanted
        ]

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the pieces of the body. Raises ConnectionError when it breaks off."""
        try:
            while type(event := await self._connection.next_event()) is h11.Data:
                yield bytes(event.data)
        except h11.RemoteProtocolError as error:
            raise ConnectionError(str(error)) from None

    def has_gone(self) -> bool:
        """Return whether the client has closed the connection, so that nobody reads an answer."""
        return self._connection.has_gone()


Handler = Callable[[Request], Awaitable[Response]]


class Server:
    """Answers requests within the running event loop.

    routes: {path: {method: handler}}. max_header: the size of the largest header in bytes.
    """

    def __init__(self, routes: dict[str, dict[str, Handler]], max_header: int = MAX_HEADER):
        self._routes = routes
        self._max_header = max_header
        self._tasks: set[asyncio.Task] = set()
        self._idle: set[asyncio.Task] = set()
        self._server = None

    async def listen(self, host: str, port: int, backlog: int = 128) -> None:
        """Begin to take connections. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, backlog=backlog)

    async def stop(self) -> None:
        """Take no more connections; give the requests that are under way STOP_SECONDS."""
        self._server.close()
        self._server = None
        for task in list(self._idle):
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        connection = _Connection(reader, writer, self._max_header)
        try:
            while self._server and (request := await self._await_request(connection, task)):
                await connection.send(await self._answer(request), request.method)
                if not await connection.finish():
                    break
        except h11.RemoteProtocolError as error:
            with contextlib.suppress(h11.LocalProtocolError, OSError):
                await connection.send(Response(error.error_status_hint), "GET")
        except (h11.LocalProtocolError, OSError):
            pass  # The client has gone, or was too slow. TimeoutError is an OSError.
        except asyncio.CancelledError:
            pass  # The service stops. Nothing awaits this task.
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _await_request(self, connection, task):
        """Return the next request, None at the end of the connection."""
        self._idle.add(task)
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                await connection.wait()
        finally:
            self._idle.discard(task)
        async with asyncio.timeout(HEADER_SECONDS):
            event = await connection.next_event()
        return Request(connection, event) if type(event) is h11.Request else None

    async def _answer(self, request):
        methods = self._routes.get(request.path)
        if methods is None:
            return Response(404, "404: Not Found")
        if request.method not in methods:
            return Response(405, "405: Method Not Allowed", {"Allow": ", ".join(sorted(methods))})
        try:
            return await methods[request.method](request)
        except Exception:
            log.exception("the request %s %s failed", request.method, request.path)
            return Response(500, "500: Internal Server Error")


class _Connection:
    """One connection of a client: h11 between the two streams."""

    def __init__(self, reader, writer, max_header):
        self._reader, self._writer = reader, writer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=max_header)

    def has_gone(self):
        return self._reader.at_eof() or self._writer.is_closing()

    async def wait(self):
        """Wait for the first bytes of a request, or for the end."""
        if not self._h11.trailing_data[0]:
            self._h11.receive_data(await self._reader.read(MAX_READ))

    async def next_event(self):
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            if self._h11.they_are_waiting_for_100_continue:
                await self._write(h11.InformationalResponse(status_code=100, headers=[]))
            self._h11.receive_data(await self._reader.read(MAX_READ))
        return event

    async def send(self, response, method):
        body = response.text.encode()
        headers = {
            "Content-Type": f"{response.content_type}; charset=utf-8",
            "Content-Length": str(len(body)),
            **response.headers,
        }
        await self._write(
            h11.Response(status_code=response.status, headers=list(headers.items())),
            *([h11.Data(data=body)] if method != "HEAD" else []),
            h11.EndOfMessage(),
        )

    async def _write(self, *events):
        self._writer.write(b"".join(self._h11.send(event) or b"" for event in events))
        await self._writer.drain()

    async def finish(self):
        """Take the rest of the request; return whether another one may follow."""
        async with asyncio.timeout(LINGER_SECONDS):
            while self._h11.their_state is h11.SEND_BODY:
                await self.next_event()
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True
