"""The HTTP client of the services, against servers of one connection and one answer."""

import asyncio
import contextlib
import socket

import pytest
from chatmaild.common import http_client
from chatmaild.common.http_client import HttpClient, NoAnswer, Origin
from support.transport_peers import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Gives each connection the next list of answers, one for each request of five bytes."""

    def __init__(self, *connections, address="127.0.0.1", after=b"", pause=0):
        self.answers = [list(answers) for answers in connections]
        self.heads, self.after, self.address = [], after, address
        self.pause, self.connections = pause, 0
        self.left = asyncio.Event()

    async def serve(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            for answer in self.answers.pop(0):
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await reader.readexactly(5)
                writer.write(answer)
            await asyncio.sleep(self.pause)
            writer.write(self.after)
            await reader.read()
        self.left.set()
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self):
        port = free_port(self.address)
        async with await asyncio.start_server(self.serve, self.address, port):
            client = HttpClient(5)
            try:
                async with asyncio.timeout(20):
                    yield client, Origin(self.address, port, (self.address,), None)
            finally:
                await client.close()


HEADERS = [("Content-Length", "5")]


def post(client, origin, headers=HEADERS, body=lambda: iter([b"he", b"llo"])):
    return client.post(origin, "/x?y", headers, body)


def posted(server, times=1):
    """Post some times; return the answers."""

    async def run():
        async with server.running() as (client, origin):
            return [await post(client, origin) for _ in range(times)]

    return asyncio.run(run())


def test_request_has_the_fields_and_the_answer_its_parts():
    server = Server([OK])
    assert posted(server) == [(200, "text/plain", "ok")]
    [head] = server.heads
    assert head.startswith(b"POST /x?y HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nContent-Length: 5\r\n" in head


@pytest.mark.parametrize(
    ("name", "port", "tls", "host"),
    [
        ("a.example", 443, True, "a.example"),
        ("a.example", 80, False, "a.example"),
        ("a.example", 80, True, "a.example:80"),
        ("2001:db8::1", 443, True, "[2001:db8::1]"),
    ],
)
def test_header_host_names_a_port_that_is_not_the_usual_one(name, port, tls, host):
    assert Origin(name, port, (), object() if tls else None).host() == host


def test_connection_is_kept_for_the_next_request():
    server = Server([OK, OK, OK])
    assert len(posted(server, 3)) == 3
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000,
    ],
    ids=["told to close", "HTTP/1.0", "long answer"],
)
def test_connection_that_cannot_go_on_is_not_kept(answer):
    server = Server([answer], [OK])
    first, second = posted(server, 2)
    assert (first.status, second.text) == (200, "ok")
    assert len(first.text) <= http_client.MAX_TEXT
    assert server.connections == 2


@pytest.mark.parametrize("pause", [0, 0.05], ids=["with its answer", "later"])
def test_server_that_talks_unasked_gets_no_further_request(pause):
    """Its words would count as the answer to the next request."""
    server = Server([OK], [OK], after=b"HTTP/1.1 408 Too late\r\n\r\n", pause=pause)

    async def run():
        async with server.running() as (client, origin):
            await post(client, origin)
            await server.left.wait()
            return await post(client, origin)

    assert asyncio.run(run()).status == 200
    assert server.connections == 2


def test_idle_connection_is_closed_after_its_time(monkeypatch):
    monkeypatch.setattr(http_client, "KEEP_SECONDS", 0.05)
    server = Server([OK])

    async def run():
        async with server.running() as (client, origin):
            await post(client, origin)
            await server.left.wait()
            return client._idle

    assert asyncio.run(run()) == {}


def test_kept_connection_that_ends_without_an_answer_leads_to_a_new_one():
    server = Server([OK, b""], [OK])

    async def serve(reader, writer):
        if server.connections:
            return await Server.serve(server, reader, writer)
        server.connections += 1
        for answer in (OK, b""):
            await reader.readuntil(b"hello")
            writer.write(answer)
        writer.close()
        server.answers.pop(0)
        return None

    server.serve = serve
    assert [answer.text for answer in posted(server, 2)] == ["ok", "ok"]
    assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"SSH-2.0-secret\r\n\r\n", "answered something that is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n", "answered something that is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: %b" % (b"x" * 70_000), "more than 65536 bytes|not HTTP"),
        (b"HTTP/1.1 100 Go on\r\n\r\n" * 4000, "answered more than 65536 bytes"),
    ],
)
def test_answer_that_is_none_is_told_without_its_bytes(answer, told):
    with pytest.raises(NoAnswer, match=told):
        posted(Server([answer]))


def test_field_with_a_line_end_is_refused_before_anything_is_sent():
    server = Server()

    async def run():
        async with server.running() as (client, origin):
            with pytest.raises(ValueError, match="header field"):
                await post(client, origin, [*HEADERS, ("X", "a\r\nY: b")])

    asyncio.run(run())
    assert server.connections == 0


def test_next_address_is_tried_when_one_does_not_answer():
    server = Server([OK], address="127.0.0.2")

    async def run():
        async with server.running() as (client, origin):
            elsewhere = origin._replace(addresses=("127.0.0.3", "127.0.0.2"))
            return await post(client, elsewhere)

    assert asyncio.run(run()).status == 200


def test_family_keeps_to_ipv4():
    async def run():
        async with Server().running() as (client, origin):
            wanted = origin._replace(addresses=("::1",), family=socket.AF_INET)
            with pytest.raises(OSError, match=r"family|supported|known"):
                await post(client, wanted)

    asyncio.run(run())


def test_answer_that_comes_before_the_whole_body_is_read():
    async def early(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
        await done.wait()
        writer.close()

    async def run():
        server = Server()
        server.serve = early
        async with server.running() as (client, origin):
            size = 50 * 2**20
            try:
                return await post(
                    client,
                    origin,
                    [("Content-Length", str(size))],
                    lambda: (b"x" * 2**20 for _ in range(50)),
                )
            finally:
                done.set()

    done = asyncio.Event()
    assert asyncio.run(run()).status == 413
