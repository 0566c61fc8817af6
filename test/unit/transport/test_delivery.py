"""Delivery to other relays, the relay contract's section 7 line by line, over real sockets."""

import asyncio
import hashlib
import os

import pytest
from chatmaild.message import spool
from chatmaild.transport import delivery
from support import transport_peers as peers
from support.running_transport import MX, deliver, world

pytestmark = pytest.mark.usefixtures("short_times")


def test_bounce_has_an_empty_sender_either_way(tmp_path, authority):
    https, smtp = peers.HttpsPeer((404, "")), peers.SmtpPeer()

    async def run():
        async with world(tmp_path, authority, https=https, smtp=smtp) as (_, path):
            return await peers.lmtp_send(path, ["x@b.example"], sender="")

    assert asyncio.run(run())[0].startswith("250 ")
    assert https.posts[0][0]["X-Mail-From"] == ""
    # aiosmtpd's way to say that it was empty.
    assert smtp.mails[0][0].mail_from == "<>"


def test_each_domain_gets_one_copy_at_once(tmp_path, authority):
    zone = MX | {("c.example", "A"): ["127.0.0.3"], ("gone.example", "MX"): ["0 ."]}
    b, c = peers.HttpsPeer(), peers.HttpsPeer()

    async def run():
        async with (
            world(tmp_path, authority, zone=zone, https=b) as (ours, path),
            c.at("127.0.0.3", ours.https_port, authority.server("c.example")),
        ):
            return await peers.lmtp_send(
                path, ["1@b.example", "2@c.example", "3@gone.example", "4@B.EXAMPLE"]
            )

    replies = asyncio.run(run())
    assert [reply[:9] for reply in replies] == [
        "250 2.0.0",
        "250 2.0.0",
        "556 5.1.10"[:9],
        "250 2.0.0",
    ]
    assert [post[0].getall("X-Mail-To") for post in b.posts] == [["1@b.example", "4@B.EXAMPLE"]]
    assert [post[0].getall("X-Mail-To") for post in c.posts] == [["2@c.example"]]


@pytest.mark.parametrize("sender", ["a@ours.example", ""], ids=["message", "bounce"])
def test_blocked_domain_is_refused_alone_and_asked_nothing(tmp_path, authority, sender):
    """The other recipients of a group message get theirs."""
    https = peers.HttpsPeer()
    recipients = ["x@b.example", "y@Sub.Blocked.example.", "z@blocked.example"]

    async def run():
        async with world(tmp_path, authority, https=https, block=["blocked.example"]) as (
            ours,
            path,
        ):
            replies = await peers.lmtp_send(path, recipients, sender=sender)
            return replies, {name for name, _ in ours.dns.asked}

    replies, asked = asyncio.run(run())
    assert replies == [
        "250 2.0.0 mx.b.example took it by HTTPS",
        "550 5.7.1 This relay sends no mail to sub.blocked.example",
        "550 5.7.1 This relay sends no mail to blocked.example",
    ]
    assert [headers.getall("X-Mail-To") for headers, _ in https.posts] == [["x@b.example"]]
    assert asked == {"b.example", "mx.b.example"}


# The thirty minutes.


def test_host_that_took_smtp_is_asked_by_smtp_for_30_minutes(tmp_path, authority):
    https = peers.HttpsPeer((502, ""))
    smtp = peers.SmtpPeer()

    async def run():
        async with world(tmp_path, authority, https=https, smtp=smtp) as (ours, path):
            seen = []
            for minutes in (0, 1, 29, 31):
                ours.clock.ahead = minutes * 60
                [reply] = await peers.lmtp_send(path, ["x@b.example"])
                assert reply.startswith("250 ")
                seen.append((len(https.posts), len(smtp.mails)))
            return seen

    assert asyncio.run(run()) == [(1, 1), (1, 2), (1, 3), (2, 3)]


def test_host_whose_smtp_is_gone_is_asked_by_https_at_once(tmp_path, authority):
    https = peers.HttpsPeer((502, ""))
    smtp = peers.SmtpPeer()

    async def run():
        async with world(tmp_path, authority, https=https) as (ours, path):
            context = authority.server("mx.b.example")
            async with smtp.at("127.0.0.2", ours.smtp_port, context):
                await peers.lmtp_send(path, ["x@b.example"])
            replies = await peers.lmtp_send(path, ["x@b.example"])
            # And it stays so, though SMTP is back.
            async with smtp.at("127.0.0.2", ours.smtp_port, context):
                return replies + await peers.lmtp_send(path, ["x@b.example"])

    assert asyncio.run(run()) == ["250 2.0.0 mx.b.example took it by HTTPS"] * 2
    assert (len(https.posts), len(smtp.mails)) == (3, 1)


def test_smtp_refusal_in_the_30_minutes_is_the_answer(tmp_path, authority):
    https = peers.HttpsPeer((502, ""))
    smtp = peers.SmtpPeer()

    async def run():
        async with world(tmp_path, authority, https=https, smtp=smtp) as (_, path):
            await peers.lmtp_send(path, ["x@b.example"])
            smtp.refusals["DATA"] = "554 5.7.1 No valid DKIM signature found"
            return await peers.lmtp_send(path, ["x@b.example"])

    assert asyncio.run(run())[0].startswith("554 5.7.1 ")
    assert len(https.posts) == 1


# Octets.

TRICKY = (
    b"Subject: [...]\r\n\r\n.\r\n..\r\n.a\r\n\r\n...\r\n \r\n\xff\x00\xfe bare \r and end \t \r\n"
    + b"x" * 900
    + b"\r\n.\r\n"
)


@pytest.mark.parametrize("way", ["https", "smtp"])
@pytest.mark.parametrize("data", [TRICKY, b"", b"\r\n", b".\r\n"], ids=["tricky", "0", "1", "dot"])
def test_message_arrives_octet_by_octet(tmp_path, authority, way, data):
    peer = peers.HttpsPeer() if way == "https" else peers.SmtpPeer()
    [reply] = deliver(tmp_path, authority, data=data, **{way: peer})
    assert reply.startswith("250 "), reply
    got = peer.posts[0][1] if way == "https" else peer.mails[0][0].original_content
    assert got == data


@pytest.mark.parametrize("way", ["https", "smtp"])
def test_30_megabytes_arrive_octet_by_octet(tmp_path, authority, way):
    line = b".-----" + b"k" * 70 + b"\r\n"
    data = line * (30 * 2**20 // len(line))
    peer = peers.HttpsPeer() if way == "https" else peers.SmtpPeer()
    [reply] = deliver(tmp_path, authority, data=data, **{way: peer})
    assert reply.startswith("250 "), reply
    got = peer.posts[0][1] if way == "https" else peer.mails[0][0].original_content
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


def test_message_is_kept_in_memory_only_while_small(tmp_path):
    with spool.Message(str(tmp_path)) as kept:
        kept.write(b"a" * spool.IN_MEMORY)
        assert kept._file is None
        kept.write(b"b" * 10)
        assert os.fstat(kept._file.fileno()).st_size == spool.IN_MEMORY + 10
        assert len(kept._memory) == 0
        assert b"".join(kept.chunks()) == b"a" * spool.IN_MEMORY + b"b" * 10
        # Two deliveries read it at their own pace.
        assert [x == y for x, y in zip(kept.chunks(), kept.chunks(), strict=True)] == [True] * 5
    assert list(tmp_path.iterdir()) == []


def test_bug_in_a_delivery_is_a_temporary_failure_and_logs_no_address(
    tmp_path, authority, monkeypatch, caplog
):
    async def broken(self, *_):
        raise KeyError("x@b.example")

    monkeypatch.setattr(delivery.Delivery, "_both_ways", broken)
    assert deliver(tmp_path, authority) == ["451 4.3.0 internal error, see the log"]
    assert "KeyError" in caplog.text
    assert "@b.example" not in caplog.text


def failed(way, kind):
    return ("chatmail_delivery_failures_total", way, kind)


@pytest.mark.parametrize(
    ("https", "smtp", "options", "counted"),
    [
        (peers.HttpsPeer(), None, {}, [("chatmail_deliveries_total", "https")]),
        (
            peers.HttpsPeer((503, "no")),
            peers.SmtpPeer(),
            {},
            [failed("https", "answer"), ("chatmail_deliveries_total", "smtp")],
        ),
        (
            None,
            peers.SmtpPeer(DATA="554 no"),
            {},
            [failed("https", "connection"), failed("smtp", "answer")],
        ),
        (None, None, {}, [failed("https", "connection"), failed("smtp", "connection")]),
        (
            peers.HttpsPeer(),
            peers.SmtpPeer(),
            {"tls": "somebody.example"},
            [failed("https", "tls"), failed("smtp", "tls")],
        ),
        (None, None, {"zone": {}}, [("chatmail_delivery_no_host_total",)]),
    ],
)
def test_way_and_failures_are_counted(tmp_path, authority, counts, https, smtp, options, counted):
    deliver(tmp_path, authority, https=https, smtp=smtp, **options)
    assert counts == counted
