"""The LMTP server that Postfix talks to, and the service as a process, stopped and killed."""

import asyncio
import contextlib
import errno
import os
import signal

import pytest
from chatmaild.message import spool
from chatmaild.transport import delivery, lmtp
from support import running_transport
from support import transport_peers as peers


@contextlib.asynccontextmanager
async def server(tmp_path, to_domain, max_size=10**6):
    start = delivery.Transactions(to_domain).start
    made = lmtp.LmtpServer(start, "ours.example", max_size, str(tmp_path))
    path = str(tmp_path / "lmtp")
    await made.listen(path)
    try:
        yield made, path
    finally:
        await made.stop(0)


class Sink:
    """Delivers to nowhere, at once or when told."""

    def __init__(self, waits=False):
        self.may_end = asyncio.Event()
        self.begun = asyncio.Event()
        self.cancelled = False
        self.taken = []
        if not waits:
            self.may_end.set()

    async def __call__(self, domain, sender, recipients, kept):
        self.begun.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        self.taken.append((domain, sender, recipients, b"".join(kept.chunks())))
        return {recipient: lmtp.Answer(250, f"2.0.0 {domain}") for recipient in recipients}


def test_transactions_follow_each_other_on_one_connection(tmp_path):
    async def run():
        sink = Sink()
        async with server(tmp_path, sink) as (_, path):
            reader, writer = await asyncio.open_unix_connection(path)
            octets = b"LHLO x\r\n" + 2 * (
                b"MAIL FROM:<a@b>\r\nRCPT TO:<c@D.example>\r\nRCPT TO:<e@f>\r\nDATA\r\n..\r\n.\r\n"
            )
            octets += b"QUIT\r\n"
            # Octet by octet, so that every seam between two reads is seen.
            for octet in octets:
                writer.write(bytes([octet]))
                await writer.drain()
            return await peers.lmtp_replies(reader, 1 + 1 + 2 * 6 + 1), sink.taken

    replies, taken = asyncio.run(run())
    assert replies[0] == "220 ours.example LMTP"
    transaction = ["250 2.1.0 ok", "250 2.1.5 ok", "250 2.1.5 ok", "354 end with a dot"]
    transaction += ["250 2.0.0 d.example", "250 2.0.0 f"]
    assert replies[2:] == [*transaction, *transaction, "221 2.0.0 bye"]
    assert sorted(taken) == 2 * [("d.example", "a@b", ["c@D.example"], b".\r\n")] + 2 * [
        ("f", "a@b", ["e@f"], b".\r\n")
    ]


@pytest.mark.parametrize(
    ("commands", "replies"),
    [
        (["MAIL FROM:<a@b>"], ["503"]),
        (["LHLO x", "RCPT TO:<a@b>"], ["250", "503"]),
        (["LHLO x", "DATA"], ["250", "503"]),
        (["LHLO x", "MAIL FROM:<a@b>", "MAIL FROM:<a@b>"], ["250", "250", "503"]),
        (["LHLO x", "MAIL FROM:a@b"], ["250", "501"]),
        (["LHLO x", "MAIL FROM:<>", "RCPT TO:<>", "DATA"], ["250", "250", "501", "503"]),
        (["LHLO x", "MAIL FROM:<>", "RSET", "RCPT TO:<a@b>"], ["250", "250", "250", "503"]),
        (["EHLO x"], ["500"]),
        (["HELO x"], ["500"]),
        (["NOOP", "VRFY a", "noop x"], ["250", "252", "250"]),
        (["x" * 5000], ["500"]),
        (["QUIT"], ["221"]),
    ],
)
def test_commands_out_of_order_are_refused(tmp_path, commands, replies):
    async def run():
        async with server(tmp_path, Sink()) as (_, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write("".join(f"{line}\r\n" for line in commands).encode())
            return await peers.lmtp_replies(reader, 1 + len(replies))

    assert [reply[:3] for reply in asyncio.run(run())[1:]] == replies


def test_too_large_a_message_is_refused_for_each_recipient_and_the_session_goes_on(tmp_path):
    async def run():
        sink = Sink()
        async with server(tmp_path, sink, max_size=1000) as (_, path):
            large = await peers.lmtp_send(path, ["a@b", "c@d"], b"x" * 999 + b"\r\n")
            return large, await peers.lmtp_send(path, ["a@b"], b"x" * 998 + b"\r\n"), sink.taken

    large, fits, taken = asyncio.run(run())
    assert large == ["552 5.3.4 more than 1000 octets"] * 2
    assert fits == ["250 2.0.0 b"]
    assert len(taken) == 1


def test_full_disk_is_a_temporary_failure(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def run():
        sink = Sink()
        async with server(tmp_path, sink) as (_, path):
            return await peers.lmtp_send(path, ["a@b"]), sink.taken

    monkeypatch.setattr(spool.Message, "write", full)
    assert asyncio.run(run()) == (["452 4.3.1 no room to keep the message aside"], [])


def test_more_recipients_than_the_limit_are_left_to_the_next_transaction(tmp_path):
    async def run():
        async with server(tmp_path, Sink()) as (_, path):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"LHLO x\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<a@b>\r\n" * 1001)
            return await peers.lmtp_replies(reader, 3 + 1001)

    replies = asyncio.run(run())
    assert set(replies[3:-1]) == {"250 2.1.5 ok"}
    assert replies[-1].startswith("452 4.5.3 ")


def test_client_that_vanishes_ends_its_delivery(tmp_path):
    """Postfix was restarted: it will hand the message in again, so this one must not arrive."""

    async def run():
        sink = Sink(waits=True)
        async with server(tmp_path, sink) as (_, path):
            send = asyncio.create_task(peers.lmtp_send(path, ["a@b"]))
            await sink.begun.wait()
            send.cancel()
            await asyncio.wait([send])
            async with asyncio.timeout(5):
                while not sink.cancelled:
                    await asyncio.sleep(0.01)
            return sink.taken

    assert asyncio.run(run()) == []


def test_stop_lets_a_delivery_end_and_sends_idle_clients_away(tmp_path):
    async def run():
        sink = Sink(waits=True)
        async with server(tmp_path, sink) as (made, path):
            idle_reader, _ = await asyncio.open_unix_connection(path)
            await idle_reader.readline()
            send = asyncio.create_task(peers.lmtp_send(path, ["a@b"]))
            await sink.begun.wait()
            stop = asyncio.create_task(made.stop(10))
            assert await idle_reader.read() == b""
            assert not send.done()
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                await asyncio.open_unix_connection(path)
            sink.may_end.set()
            replies = await send
            await stop
            return replies, len(sink.taken)

    assert asyncio.run(run()) == (["250 2.0.0 b"], 1)


def test_stop_breaks_a_delivery_off_when_the_time_is_over(tmp_path):
    async def run():
        sink = Sink(waits=True)
        async with server(tmp_path, sink) as (made, path):
            send = asyncio.create_task(peers.lmtp_send(path, ["a@b"]))
            await sink.begun.wait()
            await made.stop(0.05)
            with pytest.raises((EOFError, ConnectionError)):
                await send
            return sink.cancelled, sink.taken

    assert asyncio.run(run()) == (True, [])


# The process.

ZONE = {("b.example", "A"): ["127.0.0.2"]}


@contextlib.asynccontextmanager
async def around_a_process(tmp_path):
    """Another relay and DNS; give it, a way to start the service, and what systemd hears of it."""
    authority = peers.Authority(tmp_path)
    https = peers.HttpsPeer()
    ports = peers.free_port(), peers.free_port()
    async with (
        peers.dns_server(ZONE) as (_, resolver),
        https.at("127.0.0.2", ports[0], authority.server("b.example")),
    ):
        with running_transport.systemd(tmp_path) as notified:
            arguments = (tmp_path, authority, resolver.port, ports, notified)
            yield https, lambda: running_transport.service(*arguments), notified


def test_service_delivers_and_tells_systemd_when_it_stops(tmp_path):
    async def run():
        async with (
            around_a_process(tmp_path) as (_, service, notified),
            service() as process,
        ):
            replies = await peers.lmtp_send(str(tmp_path / "lmtp"), ["x@b.example"])
            process.send_signal(signal.SIGTERM)
            code = await process.wait()
            return replies, code, notified.recv(100), await process.stderr.read()

    assert asyncio.run(run()) == (
        ["250 2.0.0 b.example took it by HTTPS"],
        0,
        b"STOPPING=1",
        b"",
    )


def test_service_stopped_amid_a_delivery_delivers_it_once(tmp_path):
    """The reply reaches Postfix before the process ends, so nothing is sent again."""

    async def run():
        async with around_a_process(tmp_path) as (https, service, _), service() as process:
            https.seconds = 0.5
            send = asyncio.create_task(peers.lmtp_send(str(tmp_path / "lmtp"), ["x@b.example"]))
            while not https.running:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            return await send, await process.wait(), len(https.posts)

    assert asyncio.run(run()) == (["250 2.0.0 b.example took it by HTTPS"], 0, 1)


def test_service_killed_amid_a_delivery_loses_nothing(tmp_path):
    """Postfix gets no reply and hands the message in again."""
    large = b"x\r\n" * 10**6
    path = str(tmp_path / "lmtp")

    async def run():
        async with around_a_process(tmp_path) as (https, service, _):
            async with service() as process:
                https.seconds = 5
                send = asyncio.create_task(peers.lmtp_send(path, ["x@b.example"], large))
                while not https.running:
                    await asyncio.sleep(0.01)
                process.kill()
                await process.wait()
                with pytest.raises((EOFError, ConnectionError)):
                    await send
            https.seconds = 0
            async with service():
                again = await peers.lmtp_send(path, ["x@b.example"], large)
            return again, https.posts[-1][1] == large

    assert asyncio.run(run()) == (["250 2.0.0 b.example took it by HTTPS"], True)
    # The file that held the message had no name, so nothing of it is left.
    assert all(file.stat().st_size < 10000 for file in tmp_path.iterdir())


def test_100_large_messages_at_once_do_not_fill_the_memory(tmp_path):
    """100 messages of 2 MB wait for a slow relay; the service must not hold their 200 MB."""

    async def run():
        path = str(tmp_path / "lmtp")
        data = (b"k" * 76 + b"\r\n") * (2 * 2**20 // 78)
        async with around_a_process(tmp_path) as (https, service, _):
            https.seconds = 0.5
            async with service() as process:
                before = resident(process.pid)
                # Of four senders, since one has MESSAGES_PER_SENDER at most.
                senders = [f"{number % 4}@ours.example" for number in range(100)]
                sends = (peers.lmtp_send(path, ["x@b.example"], data, each) for each in senders)
                replies = await asyncio.gather(*sends)
                return replies, resident(process.pid, peak=True) - before

    replies, grown = asyncio.run(run())
    assert all(reply.startswith("250 ") for [reply] in replies)
    assert grown < 70 * 2**20, f"{grown / 2**20:.0f} MB more"


def resident(pid, peak=False):
    """Resident memory in bytes, now or at most so far."""
    field = "VmHWM:" if peak else "VmRSS:"
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def test_free_space_is_not_used_by_a_finished_message(tmp_path):
    """The file of a large message goes with its transaction."""

    async def run():
        async with server(tmp_path, Sink(), max_size=10**7) as (_, path):
            await peers.lmtp_send(path, ["a@b"], b"x\r\n" * 10**6)
            links = [
                os.readlink(f"/proc/self/fd/{fd}")
                for fd in os.listdir("/proc/self/fd")
                if os.path.lexists(f"/proc/self/fd/{fd}")
            ]
            return [link for link in links if str(tmp_path) in link and "deleted" in link]

    assert asyncio.run(run()) == []
