"""The LMTP sessions at their limits, and what is left of them when the server stops."""

import asyncio
import contextlib
import errno
import logging

import pytest
from chatmaild.transport import delivery, lmtp
from support import transport_peers as peers

TRANSACTION = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhello\r\n.\r\n"


class Ending:
    """Deliveries that end when the test says so."""

    def __init__(self):
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()

    async def __call__(self, domain, sender, recipients, kept):
        self.begun.set()
        await self.may_end.wait()
        return {recipient: lmtp.Answer(250, f"2.0.0 {domain}") for recipient in recipients}


@contextlib.asynccontextmanager
async def session(tmp_path, to_domain=None):
    """Serve; give the server, the two ends of a session that was greeted, and the deliveries."""
    ending = to_domain or Ending()
    made = lmtp.LmtpServer(
        delivery.Transactions(ending).start, "ours.example", 10**6, str(tmp_path)
    )
    path = str(tmp_path / "lmtp")
    await made.listen(path)
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        async with asyncio.timeout(20):
            await peers.lmtp_replies(reader, 1)
            yield made, reader, writer, ending
    finally:
        writer.close()
        await made.stop(0)


async def ask(reader, writer, octets, replies=1):
    writer.write(octets)
    return [reply[:3] for reply in await peers.lmtp_replies(reader, replies)]


def warnings(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_session_that_delivered_is_sent_away_by_a_stop_like_an_idle_one(tmp_path):
    async def run():
        async with session(tmp_path) as (made, reader, writer, ending):
            ending.may_end.set()
            await ask(reader, writer, b"LHLO x\r\n" + TRANSACTION, 5)
            stop = asyncio.create_task(made.stop(3600))
            rest = await reader.read()
            await stop
            return rest

    assert asyncio.run(run()) == b""


@contextlib.asynccontextmanager
async def stopping(tmp_path):
    """Give a session whose delivery has ended after the stop began, and the stop."""
    async with session(tmp_path) as (made, reader, writer, ending):
        writer.write(b"LHLO x\r\n" + TRANSACTION)
        await ending.begun.wait()
        stop = asyncio.create_task(made.stop(3600))
        await asyncio.sleep(0)
        ending.may_end.set()
        await peers.lmtp_replies(reader, 5)
        yield reader, writer, stop


def test_session_may_say_quit_while_the_server_stops_and_begin_nothing(tmp_path):
    async def run():
        async with stopping(tmp_path) as (reader, writer, stop):
            replies = await ask(reader, writer, TRANSACTION[:17], 1)
            replies += await ask(reader, writer, b"QUIT\r\n")
            await stop
            return replies

    assert asyncio.run(run()) == ["421", "221"]


def test_session_that_says_nothing_holds_up_a_stop_for_a_moment_only(tmp_path, monkeypatch):
    monkeypatch.setattr(lmtp, "QUIT_SECONDS", 0.05)

    async def run():
        async with stopping(tmp_path) as (reader, _, stop):
            await stop
            return await reader.read()

    assert asyncio.run(run()) == b""


def test_silent_client_is_left_without_a_word(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lmtp, "IDLE_SECONDS", 0.05)

    async def run():
        async with session(tmp_path) as (_, reader, _, _):
            return await reader.read()

    assert asyncio.run(run()) == b""
    assert warnings(caplog) == []


def test_client_that_reads_no_reply_and_goes_is_no_fault_of_ours(tmp_path, caplog):
    """Far more replies than the kernel holds: the server waits, or writes to nobody."""

    async def run():
        async with session(tmp_path) as (made, reader, writer, _):
            writer.write(b"NOOP\r\n" * 200_000)
            await peers.lmtp_replies(reader, 1)
            writer.transport.abort()
            while made._sessions:
                await asyncio.sleep(0)

    asyncio.run(run())
    assert warnings(caplog) == []


def test_fault_of_a_session_is_logged_by_its_kind_only(tmp_path, caplog):
    """The text of an error may quote the message."""

    def start(sender, recipients, message):
        raise KeyError("secret")

    async def run():
        async with session(tmp_path) as (made, reader, writer, _):
            made.start = start
            writer.write(b"LHLO x\r\n" + TRANSACTION)
            await peers.lmtp_replies(reader, 4)
            return await reader.read()

    assert asyncio.run(run()) == b""
    assert warnings(caplog) == ["LMTP session broke: KeyError"]


@pytest.mark.parametrize(("octets", "replies"), [(4096, ["500", "250"]), (4097, ["500"])])
def test_line_of_4096_octets_is_the_longest(tmp_path, octets, replies):
    """Whoever sends more without a line end is told so at once, and left."""

    async def run():
        async with session(tmp_path) as (_, reader, writer, _):
            writer.write(b"x" * octets)
            # After a round trip of another session, the server has read what this one sent.
            other_reader, other = await asyncio.open_unix_connection(str(tmp_path / "lmtp"))
            assert await ask(other_reader, other, b"NOOP\r\n", 2) == ["220", "250"]
            other.close()
            if octets == 4096:
                return await ask(reader, writer, b"\r\nNOOP\r\n", 2)
            return [(await reader.read())[:3].decode()]

    assert asyncio.run(run()) == replies


def test_full_disk_is_named_in_the_log(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lmtp.Message, "write", full)

    async def run():
        async with session(tmp_path) as (_, reader, writer, _):
            return await ask(reader, writer, b"LHLO x\r\n" + TRANSACTION, 5)

    assert asyncio.run(run()) == ["250", "250", "250", "354", "452"]
    assert warnings(caplog) == ["cannot keep a message aside: No space left on device"]


def test_transaction_that_ended_leaves_nothing_to_the_next(tmp_path):
    async def run():
        async with session(tmp_path) as (_, reader, writer, ending):
            ending.may_end.set()
            await ask(reader, writer, b"LHLO x\r\n" + TRANSACTION, 5)
            return await ask(reader, writer, b"RCPT TO:<c@d>\r\nDATA\r\nNOOP\r\n", 3)

    assert asyncio.run(run()) == ["503", "503", "250"]
