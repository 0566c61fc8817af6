"""The HTTP server of the services, as nginx and Dovecot meet it: octet by octet."""

import asyncio
import contextlib
import logging

import pytest
from chatmaild.common import http_server
from chatmaild.common.http_server import Response, Server, json_response
from support.transport_peers import free_port


class Held:
    """A handler that waits until it may answer."""

    def __init__(self):
        self.asked, self.may_go_on = asyncio.Event(), asyncio.Event()
        self.saw_it_go = None

    async def __call__(self, request):
        self.asked.set()
        await self.may_go_on.wait()
        self.saw_it_go = request.has_gone()
        return Response(text="late")


async def tell(request):
    """Answer with what the server read."""
    body = b"".join([piece async for piece in request.body()])
    return json_response(
        [request.method, request.all_headers("x-a"), request.query("q"), body.decode()]
    )


async def refuse(_request):
    return Response(413, "too large")


async def fail(_request):
    raise RuntimeError("a fault")


@contextlib.asynccontextmanager
async def running(held=fail, **options):
    """Run a server. Yield the server, and a function that connects to it."""
    routes = {"/tell": {"POST": tell}, "/refuse": {"POST": refuse}}
    server = Server({**routes, "/held": {"GET": held}, "/fail": {"GET": fail}}, **options)
    port = free_port()
    await server.listen("127.0.0.1", port)
    async with asyncio.timeout(20):
        try:
            yield server, lambda: asyncio.open_connection("127.0.0.1", port)
        finally:
            await server.stop()


def exchange(data, **options):
    """Return all that the server answers to these octets until it closes the connection."""

    async def run():
        async with running(**options) as (_, connect):
            reader, writer = await connect()
            writer.write(data)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            answer = await reader.read()
            writer.close()
            return answer

    return asyncio.run(run())


POST = b"POST /tell?x=1&q=a%20b&q=c HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: \xc3\xa4\r\n"
CLOSE = b"Connection: close\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
    ids=["length told", "chunked"],
)
def test_handler_gets_header_query_and_body(body):
    answer = exchange(POST + CLOSE + body)
    assert answer.startswith(b"HTTP/1.1 200 \r\nContent-Type: application/json; charset=utf-8\r\n")
    assert answer.endswith(b'["POST", ["1", "\\u00e4"], "a b", "hello"]')


def test_connection_serves_one_request_after_the_other():
    answer = exchange(2 * (POST + b"Content-Length: 1\r\n\r\nx") + POST + CLOSE + b"\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == 3


def test_client_of_http_1_0_gets_an_answer_and_the_end():
    """Nginx speaks HTTP/1.0 to a server unless it is told otherwise."""
    answer = exchange(b"POST /tell HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close\r\n" in answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: h\r\n", b"404"),
        (b"GET /tell HTTP/1.1\r\nHost: h\r\n", b"405"),
        (b"HEAD /tell HTTP/1.1\r\nHost: h\r\n", b"405"),
        (b"POST /tell HTTP/1.1\r\n", b"400"),
        (b"POST /tell HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n", b"400"),
        (b"POST /tell HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n", b"400"),
        (b"POST /tell HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n", b"501"),
        (b"POST /tell HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n", b"400"),
        (b"nonsense\r\n", b"400"),
    ],
)
def test_wrong_request_has_an_error_as_answer(request_, status):
    head, _, body = exchange(request_ + CLOSE + b"\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %b " % status)
    assert (body == b"") == (status in (b"400", b"501") or request_.startswith(b"HEAD"))


@pytest.mark.parametrize(
    ("fields", "status"),
    [(b"X: %b\r\n\r\n" % (b"x" * 900), b"200"), (b"X: %b" % (b"x" * 1100), b"431")],
    ids=["long", "too long"],
)
def test_header_has_at_most_the_size_of_the_service(fields, status):
    answer = exchange(POST + CLOSE + fields, max_header=1024)
    assert answer.startswith(b"HTTP/1.1 %b " % status)


def test_client_that_still_sends_sees_its_refusal():
    """Without reading on, the kernel would reset the connection, and nginx would answer 502."""
    size = 20 * 2**20
    head = b"POST /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size
    after = b"POST /refuse HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    answer = exchange(head + b"x" * size + after)
    assert answer.count(b"HTTP/1.1 413 ") == 2


def test_client_that_sends_for_too_long_is_left(monkeypatch):
    monkeypatch.setattr(http_server, "LINGER_SECONDS", 0.1)
    answer = exchange(b"POST /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx")
    assert answer.endswith(b"too large")


@pytest.mark.parametrize("name", ["IDLE_SECONDS", "HEADER_SECONDS"])
def test_silent_client_is_left(monkeypatch, name):
    monkeypatch.setattr(http_server, name, 0.1)
    assert exchange(b"" if name == "IDLE_SECONDS" else b"POST /tell HTT") == b""


def test_fault_of_a_handler_is_logged_and_answered(caplog):
    answer = exchange(b"GET /fail HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"fault" not in answer
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.getMessage() == "the request GET /fail failed"


@pytest.mark.parametrize("leaves", [True, False])
def test_handler_sees_that_its_client_has_gone(leaves):
    async def run():
        held = Held()
        async with running(held) as (_, connect):
            _, writer = await connect()
            writer.write(b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n")
            await held.asked.wait()
            if leaves:
                writer.close()
                await writer.wait_closed()
                # The server reads the end of that connection before this new one.
                _, writer = await connect()
            await asyncio.sleep(0.01)
            held.may_go_on.set()
            while held.saw_it_go is None:
                await asyncio.sleep(0.001)
            writer.close()
            return held.saw_it_go

    assert asyncio.run(run()) is leaves


def test_stop_waits_for_requests_and_for_no_idle_client():
    async def run():
        held = Held()
        async with running(held) as (server, connect):
            idle, idle_writer = await connect()
            reader, writer = await connect()
            writer.write(b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n")
            await held.asked.wait()
            stopping = asyncio.create_task(server.stop())
            ended = await idle.read()
            with pytest.raises(OSError, match="Connect"):
                await connect()
            assert not stopping.done()
            held.may_go_on.set()
            await stopping
            answer = await reader.read()
            for each in (idle_writer, writer):
                each.close()
            await server.listen("127.0.0.1", free_port())
            return ended, answer

    ended, answer = asyncio.run(run())
    assert ended == b""
    assert answer.endswith(b"\r\n\r\nlate")
