"""HTTPS servers that answer without end."""

import asyncio
import contextlib

import pytest
from support.running_transport import transport
from support.transport_peers import lmtp_send

MX = {("b.example", "MX"): ["10 mx.b.example."], ("mx.b.example", "A"): ["127.0.0.2"]}
FIELD = b"X: %b\r\n" % (b"x" * 8000)
# Far more than the kernel holds on the way.
PIECES = 4000


@pytest.mark.parametrize(
    ("first", "again"),
    [(b"", b"HTTP/1.1 100 Continue\r\n%b\r\n" % FIELD), (b"HTTP/1.1 200 OK\r\n", FIELD)],
    ids=["interim answers", "header fields"],
)
def test_server_that_answers_without_end_is_left(tmp_path, authority, first, again):
    """Header fields alone took a process with aiohttp 3.11 to 1.8 GB in six seconds."""
    sent = []

    async def endless(reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"hello\r\n")
            writer.write(first)
            for _ in range(PIECES):
                writer.write(again)
                await writer.drain()
                # drain() itself does not let the event loop see that the client has left.
                await asyncio.sleep(0)
                sent.append(len(again))
        left.set()
        writer.close()

    async def run():
        async with transport(MX, authority, tmp_path) as ours:
            path = await ours.listen(tmp_path / "lmtp")
            context = authority.server("mx.b.example")
            port = ours.https_port
            async with await asyncio.start_server(endless, "127.0.0.2", port, ssl=context):
                answers = await lmtp_send(path, ["x@b.example"])
                await left.wait()
                return answers

    left = asyncio.Event()
    [reply] = asyncio.run(run())
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: "), reply
    assert sum(sent) < 16 * 2**20
