"""Delivery by SMTP: answers for each recipient, and servers that misbehave."""

import asyncio
import contextlib
import re

import pytest
from chatmaild.transport import delivery, smtp_client
from support import transport_peers as peers
from support.running_transport import deliver, transport, world

pytestmark = pytest.mark.usefixtures("short_times")


def test_smtp_answers_each_recipient(tmp_path, authority):
    smtp = peers.SmtpPeer(**{"no@b.example": "550 5.1.1 unknown", "full@b.example": "452 full"})
    recipients = ["x@b.example", "no@b.example", "full@b.example"]
    assert deliver(tmp_path, authority, recipients, smtp=smtp) == [
        "250 2.0.0 mx.b.example said: 250 queued as X",
        "550 5.1.1 mx.b.example said: 550 unknown",
        "452 4.0.0 mx.b.example said: 452 full",
    ]
    assert smtp.mails[0][0].rcpt_tos == ["x@b.example"]


def test_refusal_of_the_message_is_final(tmp_path, authority):
    smtp = peers.SmtpPeer(DATA="523 Encryption Needed: Invalid Unencrypted Mail")
    [reply] = deliver(tmp_path, authority, smtp=smtp)
    assert reply == ("523 5.0.0 mx.b.example said: 523 Encryption Needed: Invalid Unencrypted Mail")


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ([b"554 go away\r\n"], "451 4.4.1 .*554 go away"),
        ([b"220 x\r\n", b"502 no EHLO\r\n"], "451 4.4.1 .*502 no EHLO"),
        ([b"HTTP/1.1 400 Bad Request\r\n"], "451 4.4.1 .*no SMTP reply"),
        ([*peers.PLAIN_SMTP[:2], b"550 5.7.1 not you\r\n"], "550 5.7.1 "),
        ([*peers.PLAIN_SMTP[:2], b"421 4.3.2 stopping\r\n"], "421 4.3.2 "),
        ([*peers.PLAIN_SMTP[:4], b"250 what\r\n"], "451 4.4.1 .*answered 250 to DATA"),
        ([*peers.PLAIN_SMTP[:4], b"451 4.3.0 no\r\n"], "451 4.3.0 "),
        ([*peers.PLAIN_SMTP[:5]], "451 4.4.2 .*after the whole message"),
        ([*peers.PLAIN_SMTP[:5], b"354 again\r\n"], "451 4.5.0 "),
        (peers.PLAIN_SMTP, "250 2.0.0 "),
    ],
)
def test_smtp_session_that_ends_badly_keeps_the_message(tmp_path, authority, script, outcome):
    zone = {("nauta.cu", "A"): ["127.0.0.2"]}

    async def run():
        async with transport(zone, authority, tmp_path) as ours:
            path = await ours.listen(tmp_path / "lmtp")
            # The exempt domain asks twice: with TLS, which is not offered here, and without.
            server = peers.scripted([b"220 x\r\n", b"250 x\r\n"], script)
            async with await asyncio.start_server(server, "127.0.0.2", ours.smtp_port):
                return await peers.lmtp_send(path, ["x@nauta.cu"])

    [reply] = asyncio.run(run())
    assert re.match(outcome, reply), reply


FLOOD = b"250 x\r\n" * 5000


@pytest.mark.parametrize("step", [0, 1, 2, 4, 5], ids=["greeting", "EHLO", "MAIL", "DATA", "end"])
def test_server_that_streams_replies_is_left(tmp_path, authority, monkeypatch, step):
    """One such server took the service to 802 MB in 9.5 s, and all outgoing mail with it."""
    zone = {("nauta.cu", "A"): ["127.0.0.2"]}
    kept = []
    most = {"replies": 0}

    class Watched(smtp_client.SmtpConnection):
        def data_received(self, data):
            super().data_received(data)
            most["replies"] = max(most["replies"], len(self._replies))

    monkeypatch.setattr(smtp_client, "SmtpConnection", Watched)

    async def endless(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            for reply in peers.PLAIN_SMTP[:step]:
                writer.write(reply)
                await reader.readuntil(b"\r\n")
            kept.append(writer)
            while True:
                writer.write(FLOOD)
                await writer.drain()
        writer.close()

    async def run():
        async with transport(zone, authority, tmp_path) as ours:
            path = await ours.listen(tmp_path / "lmtp")
            async with await asyncio.start_server(endless, "127.0.0.2", ours.smtp_port):
                return await peers.lmtp_send(path, ["x@nauta.cu"])

    [reply] = asyncio.run(run())
    assert re.match(r"451 4\.4\.[12] .*replies that nothing asked for", reply), reply
    assert kept
    assert most["replies"] <= 1 + smtp_client.UNASKED_REPLIES


def test_replies_to_pipelined_commands_are_read_batch_by_batch(tmp_path, authority):
    zone = {("nauta.cu", "A"): ["127.0.0.2"]}
    count = 2 * smtp_client.PIPELINED + 5
    replies = [b"250 ok\r\n"] * count
    replies[7] = b"550 5.1.1 " + b"no" * 1000 + b"\r\n"
    script = [
        b"220 x\r\n",
        b"250-x\r\n250 PIPELINING\r\n",
        b"250 ok\r\n",
        *replies,
        *peers.PLAIN_SMTP[4:],
    ]

    async def run():
        async with transport(zone, authority, tmp_path) as ours:
            path = await ours.listen(tmp_path / "lmtp")
            server = peers.scripted([b"220 x\r\n", b"250 x\r\n"], script)
            async with await asyncio.start_server(server, "127.0.0.2", ours.smtp_port):
                return await peers.lmtp_send(path, [f"{n}@nauta.cu" for n in range(count)])

    answers = asyncio.run(run())
    assert [each[:3] for each in answers] == ["550" if n == 7 else "250" for n in range(count)]


def test_smtp_server_that_is_never_ready_costs_only_so_long(tmp_path, authority, monkeypatch):
    """Each reply came just in time, so that it cost 180 s."""
    monkeypatch.setattr(delivery, "SETUP_SECONDS", 0.5)
    monkeypatch.setattr(smtp_client, "REPLY_SECONDS", 30)
    hole = peers.BlackHole()

    async def run():
        async with (
            world(tmp_path, authority) as (ours, path),
            hole.at("127.0.0.2", ours.smtp_port),
        ):
            return await peers.lmtp_send(path, ["x@b.example"])

    assert asyncio.run(run())[0].endswith("SMTP: not ready within 0.5 s")
