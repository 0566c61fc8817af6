"""Delivery to other relays, the relay contract's section 7 line by line, over real sockets."""

import asyncio
import contextlib
import gzip
import hashlib
import os
import re
import time

import pytest
from chatmaild.message import spool
from chatmaild.transport import delivery, destinations, https_client, smtp_client
from support import transport_peers as peers

MX = {("b.example", "MX"): ["10 mx.b.example."], ("mx.b.example", "A"): ["127.0.0.2"]}


@pytest.fixture
def authority(tmp_path):
    return peers.Authority(tmp_path)


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    """What waits 10 s and longer for a black hole waits one second here."""
    monkeypatch.setattr(smtp_client, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(https_client, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(smtp_client, "TLS_SECONDS", 1)
    monkeypatch.setattr(smtp_client, "REPLY_SECONDS", 1)
    monkeypatch.setattr(destinations, "DNS_SECONDS", 1)


@contextlib.asynccontextmanager
async def world(tmp_path, authority, zone=MX, https=None, smtp=None, tls="mx.b.example", **kwargs):
    """The service with one other relay at 127.0.0.2; give both its LMTP socket's path."""
    async with contextlib.AsyncExitStack() as stack:
        ours = await stack.enter_async_context(peers.relay(zone, authority, tmp_path, **kwargs))
        context = authority.server(tls) if isinstance(tls, str) else tls
        if https:
            await stack.enter_async_context(https.at("127.0.0.2", ours.https_port, context))
        if smtp:
            await stack.enter_async_context(smtp.at("127.0.0.2", ours.smtp_port, context))
        await ours.listen(tmp_path / "lmtp")
        yield ours, str(tmp_path / "lmtp")


def deliver(tmp_path, authority, recipients=("x@b.example",), data=peers.MESSAGE, **kwargs):
    """Send one message through a world; return the replies."""

    async def run():
        async with world(tmp_path, authority, **kwargs) as (_, path):
            return await peers.lmtp_send(path, recipients, data)

    return asyncio.run(run())


def test_mx_host_is_asked_by_https_with_envelope_in_headers(tmp_path, authority):
    https, smtp = peers.HttpsPeer(), peers.SmtpPeer()
    replies = deliver(tmp_path, authority, ["x@b.example", "Y@B.example"], https=https, smtp=smtp)
    assert replies == ["250 2.0.0 mx.b.example took it by HTTPS"] * 2
    [(headers, body)] = https.posts
    assert headers.getall("X-Mail-From") == ["a@ours.example"]
    assert headers.getall("X-Mail-To") == ["x@b.example", "Y@B.example"]
    assert headers.getall("Content-Length") == [str(len(peers.MESSAGE))]
    assert "Transfer-Encoding" not in headers
    assert body == peers.MESSAGE
    assert smtp.sessions == 0


def test_bounce_has_an_empty_sender_either_way(tmp_path, authority):
    https, smtp = peers.HttpsPeer((404, "")), peers.SmtpPeer()

    async def run():
        async with world(tmp_path, authority, https=https, smtp=smtp) as (_, path):
            return await peers.lmtp_send(path, ["x@b.example"], sender="")

    assert asyncio.run(run())[0].startswith("250 ")
    assert https.posts[0][0]["X-Mail-From"] == ""
    # aiosmtpd's way to say that it was empty.
    assert smtp.mails[0][0].mail_from == "<>"


@pytest.mark.parametrize("status", [400, 404, 405, 413, 500, 502, 503, 301, 204])
def test_any_https_status_but_200_leads_to_smtp(tmp_path, authority, status):
    https, smtp = peers.HttpsPeer((status, "550 5.1.1 no")), peers.SmtpPeer()
    replies = deliver(tmp_path, authority, https=https, smtp=smtp)
    assert replies == ["250 2.0.0 mx.b.example said: 250 queued as X"]
    [(envelope, tls)] = smtp.mails
    assert tls is not None
    assert (envelope.mail_from, envelope.rcpt_tos) == ("a@ours.example", ["x@b.example"])
    assert envelope.original_content == peers.MESSAGE
    assert "BODY=8BITMIME" in envelope.mail_options


@pytest.mark.parametrize(
    ("kind", "text", "taken"),
    [
        ("", "250 OK", True),  # filtermail
        ("text/plain", "OK", True),  # madmail
        ("", "", True),  # its older versions
        ("text/plain", "250 2.0.0 this relay said: 250 2.0.0 Ok: queued as X\n", True),
        ("text/html", "<html>It works!</html>", False),
        ("text/html", "OK", False),
        ("text/plain", "<html>It works!</html>", False),
        ("text/plain", "okay, what do you want?", False),
        ("text/plain", "", False),
        ("application/json", '{"status": "ok"}', False),
        ("application/octet-stream", "", False),
        ("text/plain", "550 5.1.1 no such user", False),
    ],
)
def test_only_what_a_relay_answers_counts_as_delivered(tmp_path, authority, kind, text, taken):
    """A web server that answers every path with 200 swallowed mail."""
    https = peers.HttpsPeer((200, text), kind=kind)
    [reply] = deliver(tmp_path, authority, https=https)
    told = "250 2.0.0 mx.b.example took it by HTTPS"
    failed = "451 4.4.1 mx.b.example: HTTPS: 200, but not as a relay answers; SMTP: "
    assert reply.startswith(told if taken else failed)


def test_answer_is_not_decompressed(tmp_path, authority):
    """Nobody asked for it, and a kilobyte may be a gigabyte."""
    compressed = gzip.compress(b"250 2.0.0 " + b"x" * 1000)

    async def serve(reader, writer):
        await reader.readuntil(b"hello\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(compressed)}"
        writer.write(f"{head}\r\n\r\n".encode() + compressed)
        await writer.drain()
        writer.close()

    async def run():
        async with world(tmp_path, authority) as (ours, path):
            context = authority.server("mx.b.example")
            port = ours.https_port
            async with await asyncio.start_server(serve, "127.0.0.2", port, ssl=context):
                return await peers.lmtp_send(path, ["x@b.example"])

    [reply] = asyncio.run(run())
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: 200, but not as a relay answers; ")


def test_https_refusal_alone_never_bounces(tmp_path, authority):
    """Port 25 is blocked and /mxdeliv says no: the message stays in the queue."""
    https = peers.HttpsPeer((400, "550 5.1.1 no such user"))
    [reply] = deliver(tmp_path, authority, https=https)
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: 400 550 5.1.1 no such user; SMTP: ")


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


# Which hosts: DNS.


@pytest.mark.parametrize(
    ("zone", "domain", "reply"),
    [
        ({("b.example", "MX"): ["0 ."]}, "b.example", "556 5.1.10 "),
        ({}, "b.example", "550 5.1.2 b.example does not exist"),
        ({("b.example", "MX"): "SERVFAIL"}, "b.example", "451 4.4.3 "),
        ({("b.example", "MX"): "SILENT"}, "b.example", "451 4.4.3 "),
        ({("b.example", "TXT"): ['"x"']}, "b.example", "550 5.4.4 "),
        ({("b.example", "MX"): ["10 mx.b.example."]}, "b.example", "550 5.1.2 mx.b.example does"),
        (
            {("b.example", "MX"): ["10 mx.b.example."], ("mx.b.example", "A"): "SERVFAIL"},
            "b.example",
            "451 4.4.3 ",
        ),
        (MX, "b..example", "550 5.1.2 b..example is no domain name"),
        (MX, "[1.2.3.4.5]", "550 5.1.2 [1.2.3.4.5] is no valid address literal"),
        (MX, "[::1]", "550 5.1.2 [::1] is no valid address literal"),
    ],
)
def test_domain_without_host_is_answered_as_dns_says(tmp_path, authority, zone, domain, reply):
    [got] = deliver(tmp_path, authority, [f"x@{domain}"], zone=zone)
    assert got.startswith(reply), got


def test_domain_without_mx_is_its_own_host(tmp_path, authority):
    https = peers.HttpsPeer()
    zone = {("b.example", "A"): ["127.0.0.2"]}
    [reply] = deliver(tmp_path, authority, zone=zone, https=https, tls="b.example")
    assert reply == "250 2.0.0 b.example took it by HTTPS"


def test_hosts_are_asked_in_order_of_preference_until_one_takes_it(tmp_path, authority):
    """The first is not there, the second refuses for now, the third takes it."""
    zone = {
        ("b.example", "MX"): ["30 three.example.", "10 one.example.", "20 mx.b.example."],
        ("one.example", "A"): ["127.0.0.4"],
        ("mx.b.example", "A"): ["127.0.0.2"],
        ("three.example", "A"): ["127.0.0.3"],
    }
    second, third = peers.SmtpPeer(DATA="451 4.7.1 later"), peers.HttpsPeer()

    async def run():
        async with (
            world(tmp_path, authority, zone=zone, smtp=second) as (ours, path),
            third.at("127.0.0.3", ours.https_port, authority.server("three.example")),
        ):
            return await peers.lmtp_send(path, ["x@b.example"])

    assert asyncio.run(run()) == ["250 2.0.0 three.example took it by HTTPS"]
    assert second.sessions > 0


def test_recipient_delivered_by_one_host_is_not_sent_to_the_next(tmp_path, authority):
    zone = MX | {
        ("b.example", "MX"): ["10 mx.b.example.", "20 three.example."],
        ("three.example", "A"): ["127.0.0.3"],
    }
    first, second = peers.SmtpPeer(**{"later@b.example": "451 4.2.2 later"}), peers.HttpsPeer()

    async def run():
        async with (
            world(tmp_path, authority, zone=zone, smtp=first) as (ours, path),
            second.at("127.0.0.3", ours.https_port, authority.server("three.example")),
        ):
            return await peers.lmtp_send(path, ["x@b.example", "later@b.example"])

    assert [reply[:3] for reply in asyncio.run(run())] == ["250", "250"]
    assert first.mails[0][0].rcpt_tos == ["x@b.example"]
    assert second.posts[0][0].getall("X-Mail-To") == ["later@b.example"]


@pytest.mark.parametrize("fault", ["bug", "uncertain", "no such name in TLS"])
def test_recipient_delivered_by_one_host_stays_so_whatever_the_next_does(
    tmp_path, authority, monkeypatch, fault
):
    """One got 250 and one 450; as the second host broke, both were tried again later."""
    second = "a..b.example" if fault == "no such name in TLS" else "three.example"
    zone = MX | {
        ("b.example", "MX"): ["10 mx.b.example.", "20 three.example."],
        ("three.example", "A"): ["127.0.0.3"],
    }
    first = peers.SmtpPeer(**{"later@b.example": "451 4.2.2 later"})
    original = delivery.Delivery._both_ways

    async def both_ways(self, known, place, host, *arguments):
        if host.name == "three.example":
            if fault == "bug":
                raise KeyError
            if fault == "uncertain":
                raise smtp_client.Uncertain("no reply")
            host = host._replace(name=second)
        return await original(self, known, place, host, *arguments)

    monkeypatch.setattr(delivery.Delivery, "_both_ways", both_ways)

    async def run():
        async with world(tmp_path, authority, zone=zone, smtp=first) as (ours, path):
            tls = authority.server("three.example")
            async with peers.SmtpPeer().at("127.0.0.3", ours.smtp_port, tls):
                return await peers.lmtp_send(path, ["x@b.example", "later@b.example"])

    assert [reply[:3] for reply in asyncio.run(run())] == ["250", "451"]


def test_200_before_the_whole_message_counts_for_nothing(tmp_path, authority):
    data = b"x" * 998 + b"\r\n"

    async def early(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await closed.wait()
        writer.close()

    async def run():
        async with world(tmp_path, authority) as (ours, path):
            context = authority.server("mx.b.example")
            port = ours.https_port
            async with await asyncio.start_server(early, "127.0.0.2", port, ssl=context):
                try:
                    return await peers.lmtp_send(path, ["x@b.example"], data * 20000)
                finally:
                    closed.set()

    closed = asyncio.Event()
    [reply] = asyncio.run(run())
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: 200 before it had the whole message; ")


@pytest.mark.parametrize("silent", ["before TLS", "amid the message", "after the message"])
def test_silent_https_host_costs_only_so_long(tmp_path, authority, monkeypatch, silent):
    for name in ("CONNECTED_SECONDS", "PIECE_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(https_client, name, 0.5)
    monkeypatch.setattr(https_client, "CONNECT_SECONDS", 30)

    async def serve(reader, writer):
        if silent == "after the message":
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"hello\r\n")
        await closed.wait()
        writer.close()

    async def run():
        async with world(tmp_path, authority) as (ours, path):
            context = None if silent == "before TLS" else authority.server("mx.b.example")
            data = peers.MESSAGE if silent == "after the message" else b"x\r\n" * 5_000_000
            port = ours.https_port
            async with await asyncio.start_server(serve, "127.0.0.2", port, ssl=context):
                try:
                    async with asyncio.timeout(20):
                        return await peers.lmtp_send(path, ["x@b.example"], data)
                finally:
                    closed.set()

    closed = asyncio.Event()
    [reply] = asyncio.run(run())
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: timed out; SMTP: ")


@pytest.mark.parametrize("domain", ["[127.0.0.2]", "[IPv6:::1]"])
def test_literal_goes_to_that_ip_with_any_certificate(tmp_path, authority, domain):
    https, smtp = peers.HttpsPeer((503, "")), peers.SmtpPeer()
    ip = domain[1:-1].removeprefix("IPv6:")

    async def run():
        async with contextlib.AsyncExitStack() as stack:
            enter = stack.enter_async_context
            ours = await enter(peers.relay({}, authority, tmp_path))
            context = authority.server("elsewhere.example", days=-1)
            await enter(https.at(ip, ours.https_port, context))
            await enter(smtp.at(ip, ours.smtp_port, context))
            path = await ours.listen(tmp_path / "lmtp")
            one = await peers.lmtp_send(path, [f"x@{domain}"])
            ours.clock.ahead = delivery.SMTP_FIRST_SECONDS + 1
            return one + await peers.lmtp_send(path, [f"x@{domain}"]), ours.dns.asked

    replies, asked = asyncio.run(run())
    assert replies == [f"250 2.0.0 {ip} said: 250 queued as X", f"250 2.0.0 {ip} took it by HTTPS"]
    assert smtp.mails[0][1] is not None
    assert asked == []


def test_ipv6_disabled_asks_for_no_aaaa_and_refuses_ipv6_literals(tmp_path, authority):
    zone = MX | {("mx.b.example", "AAAA"): ["::1"]}

    async def run():
        async with world(
            tmp_path, authority, zone=zone, https=peers.HttpsPeer(), use_ipv6=False
        ) as (ours, path):
            replies = await peers.lmtp_send(path, ["x@b.example", "x@[IPv6:::1]"])
            return replies, {kind for _, kind in ours.dns.asked}

    replies, asked = asyncio.run(run())
    assert replies[0].startswith("250 ")
    assert replies[1].startswith("550 5.4.4 IPv6 is disabled")
    assert asked == {"MX", "A"}


def test_dead_first_address_leads_to_the_second(tmp_path, authority):
    zone = MX | {("mx.b.example", "A"): ["127.0.0.4"], ("mx.b.example", "AAAA"): ["::1"]}
    https = peers.HttpsPeer((500, ""))
    smtp = peers.SmtpPeer()

    async def run():
        async with world(tmp_path, authority, zone=zone) as (ours, path):
            context = authority.server("mx.b.example")
            async with (
                https.at("::1", ours.https_port, context),
                smtp.at("::1", ours.smtp_port, context),
            ):
                return await peers.lmtp_send(path, ["x@b.example"])

    assert asyncio.run(run())[0].startswith("250 ")
    assert len(https.posts) == len(smtp.mails) == 1


@pytest.mark.parametrize(
    "zone",
    [
        {("b.example", "MX"): ["10 ours.example."], ("ours.example", "A"): ["203.0.113.1"]},
        {("b.example", "MX"): ["10 mx.b.example."], ("mx.b.example", "A"): ["127.0.0.1"]},
        {("b.example", "A"): ["0.0.0.0"]},
        {("b.example", "AAAA"): ["::1"]},
        # Hosts that are less preferred than ourselves, or as much, are none either.
        MX
        | {
            ("b.example", "MX"): ["10 ours.example.", "10 mx.b.example."],
            ("ours.example", "A"): ["203.0.113.1"],
        },
    ],
)
def test_mail_that_would_come_back_to_us_is_refused_as_a_loop(tmp_path, authority, zone):
    [reply] = deliver(tmp_path, authority, zone=zone, is_ours=destinations.is_local_address)
    assert reply == "550 5.4.6 mail for b.example loops back to this relay"


def test_backup_mx_asks_hosts_better_than_itself(tmp_path, authority):
    zone = MX | {
        ("b.example", "MX"): ["10 mx.b.example.", "20 ours.example."],
        ("ours.example", "A"): ["203.0.113.1"],
    }
    [reply] = deliver(tmp_path, authority, zone=zone, https=peers.HttpsPeer())
    assert reply.startswith("250 ")


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.2/admin/delete?x.evil.test",
        "127.0.0.2#.evil.test",
        "a@127.0.0.2",
        "127.0.0.2",
        "127.0.0.2:25",
        "[::1]",
        "b c.example",
        "b%2f.example",
        "m\xfcller.example",
        "evil.0x7f000002/",
        "evil.7",
    ],
)
def test_mx_that_is_no_host_name_is_never_asked(tmp_path, authority, name):
    """The first of these made the transport post to that path of 127.0.0.2, unverified."""
    escaped = "".join(c if c.isalnum() and c.isascii() else f"\\{ord(c):03}" for c in name)
    if not name.startswith(("[", "b", "m", "a@")):
        escaped = name.replace("@", "\\@")
    zone = {("b.example", "MX"): [f"10 {escaped}."]}
    https = peers.HttpsPeer()
    [reply] = deliver(tmp_path, authority, zone=zone, https=https, tls="127.0.0.2")
    assert reply == "550 5.4.4 no MX of b.example is a host name"
    assert https.connections == set()


@pytest.mark.parametrize("domain", ["127.0.0.2", "b.example.7", "1", "a" * 64 + ".example"])
def test_domain_that_is_no_host_name_is_refused(tmp_path, authority, domain):
    [reply] = deliver(tmp_path, authority, [f"x@{domain}"], tls="127.0.0.2")
    assert reply == f"550 5.1.2 {domain} is no domain name"


def test_mx_that_is_a_host_name_is_asked_beside_one_that_is_none(tmp_path, authority):
    zone = MX | {("b.example", "MX"): ["5 127.0.0.9/x.", "10 mx.b.example."]}
    [reply] = deliver(tmp_path, authority, zone=zone, https=peers.HttpsPeer())
    assert reply.startswith("250 ")


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.2", "169.254.169.254", "172.31.0.1"),
        *("192.0.0.8", "192.0.2.1", "192.168.1.1", "198.19.0.1", "198.51.100.1", "203.0.113.1"),
        *("224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::127.0.0.2", "::ffff:127.0.0.2", "64:ff9b::7f00:2", "fe80::1", "fd00::1"),
        *("fec0::1", "ff02::1", "2001::1", "2001:db8::1", "2002:7f00:2::", "3fff::1"),
    ],
)
def test_address_that_is_not_public_is_no_destination(tmp_path, authority, address):
    kind = "AAAA" if ":" in address else "A"
    zone = {("b.example", kind): [address]}
    literal = f"[IPv6:{address}]" if kind == "AAAA" else f"[{address}]"

    async def run():
        async with peers.relay(zone, authority, tmp_path, private_networks=()) as ours:
            path = await ours.listen(tmp_path / "lmtp")
            return await peers.lmtp_send(path, ["x@b.example", f"x@{literal}"])

    replies = asyncio.run(run())
    assert replies[0] == "550 5.4.4 b.example has no public address"
    assert re.fullmatch(r"550 5\.4\.4 [0-9a-f.:]+ has no public address", replies[1])


@pytest.mark.parametrize("address", ["9.9.9.9", "193.0.0.1", "2606:4700::1111", "2a00::1"])
def test_public_address_is_one(address):
    assert destinations.is_public(address)


def test_network_that_the_operator_names_is_a_destination(tmp_path, authority):
    https = peers.HttpsPeer()
    zone = MX | {("mx.b.example", "A"): ["127.0.0.3", "127.0.0.2"]}
    options = {"private_networks": ["127.0.0.2/32"], "zone": zone}
    [reply] = deliver(tmp_path, authority, https=https, **options)
    assert reply == "250 2.0.0 mx.b.example took it by HTTPS"


def test_https_goes_to_the_addresses_that_were_checked(tmp_path, authority):
    """Who answers the first look-up with a public address answers the next one as he likes."""
    https = peers.HttpsPeer()

    async def run():
        async with world(tmp_path, authority, https=https) as (ours, path):
            return await peers.lmtp_send(path, ["x@b.example"]), ours.dns.asked

    [reply], asked = asyncio.run(run())
    assert reply == "250 2.0.0 mx.b.example took it by HTTPS"
    assert asked.count(("mx.b.example", "A")) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("550 5.1.1 no such user\nmore", " 550 5.1.1 no such user"),
        ("550-5.1.1 no such user", " 550-5.1.1 no such user"),
        ("secret: 42", ""),
        ("<html>404</html>", ""),
        (' {"token": "42"}', ""),
        ("550", ""),
        ("1550 5.1.1 no", ""),
        ("550 x" + "y" * 500, " 550 x" + "y" * 199),
        ("550 caf\xe9", " 550 caf"),
    ],
)
def test_only_an_smtp_reply_is_told_of_an_https_answer(tmp_path, authority, text, told):
    """The answer of a machine that was never to be asked came back in the bounce."""
    [reply] = deliver(tmp_path, authority, https=peers.HttpsPeer((404, text)))
    assert reply.startswith(f"451 4.4.1 mx.b.example: HTTPS: 404{told}; SMTP: "), reply


def test_what_is_no_http_is_not_told(tmp_path, authority):
    async def run():
        async with world(tmp_path, authority) as (ours, path):
            context = authority.server("mx.b.example")
            server = scripted([b"SSH-2.0-secret\r\n\r\n"])
            port = ours.https_port
            async with await asyncio.start_server(server, "127.0.0.2", port, ssl=context):
                return await peers.lmtp_send(path, ["x@b.example"])

    [reply] = asyncio.run(run())
    assert "secret" not in reply
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: ")


# TLS.


@pytest.mark.parametrize(
    ("names", "days", "reason"),
    [
        (["mx.b.example"], -1, "certificate has expired"),
        (["b.example"], 1, "Hostname mismatch"),
        (None, 1, "unable to get local issuer certificate"),
    ],
    ids=["expired", "wrong name", "unknown CA"],
)
def test_bad_certificate_defers_and_hands_over_nothing(tmp_path, authority, names, days, reason):
    other = peers.Authority(tmp_path) if names is None else authority
    context = other.server(*(names or ["mx.b.example"]), days=days)
    https, smtp = peers.HttpsPeer(), peers.SmtpPeer()
    [reply] = deliver(tmp_path, authority, https=https, smtp=smtp, tls=context)
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: TLS failed: certificate not trusted")
    assert reply.count(reason) == 2, reply
    assert https.posts == smtp.mails == []


@pytest.mark.parametrize("way", ["https", "smtp"])
def test_underscore_domain_takes_any_certificate(tmp_path, authority, way):
    zone = {("_b.example", "MX"): ["10 _b.example."], ("_b.example", "A"): ["127.0.0.2"]}
    peer = peers.HttpsPeer() if way == "https" else peers.SmtpPeer()
    context = peers.Authority(tmp_path).server("elsewhere.example", days=-1)
    [reply] = deliver(tmp_path, authority, ["x@_b.example"], zone=zone, tls=context, **{way: peer})
    assert reply.startswith("250 2.0.0 _b.example "), reply
    if way == "smtp":
        assert peer.mails[0][1] is not None


def test_smtp_without_starttls_gets_nothing(tmp_path, authority):
    smtp = peers.SmtpPeer()

    async def run():
        async with (
            world(tmp_path, authority) as (ours, path),
            smtp.at("127.0.0.2", ours.smtp_port, None),
        ):
            return await peers.lmtp_send(path, ["x@b.example"])

    [reply] = asyncio.run(run())
    assert reply.startswith("451 4.4.1 ")
    assert reply.endswith("SMTP: no STARTTLS offered")
    assert smtp.mails == []


@pytest.mark.parametrize("offered", ["nothing", "any certificate", "TLS that fails"])
def test_nauta_cu_may_be_plain(tmp_path, authority, offered):
    zone = {("nauta.cu", "MX"): ["10 mx.nauta.cu."], ("mx.nauta.cu", "A"): ["127.0.0.2"]}
    smtp = peers.SmtpPeer()
    context = None if offered == "nothing" else peers.Authority(tmp_path).server("other.example")

    async def run():
        async with peers.relay(zone, authority, tmp_path) as ours:
            path = await ours.listen(tmp_path / "lmtp")
            if offered == "TLS that fails":
                server = scripted(
                    [b"220 x\r\n", b"250-x\r\n250 STARTTLS\r\n", b"454 no\r\n"], PLAIN
                )
                async with await asyncio.start_server(server, "127.0.0.2", ours.smtp_port):
                    return await peers.lmtp_send(path, ["x@nauta.cu"])
            async with smtp.at("127.0.0.2", ours.smtp_port, context):
                return await peers.lmtp_send(path, ["x@nauta.cu"])

    [reply] = asyncio.run(run())
    assert reply.startswith("250 "), reply
    if offered != "TLS that fails":
        assert (smtp.mails[0][1] is not None) == (offered == "any certificate")


PLAIN = [b"220 x\r\n", b"250 x\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"250 ok\r\n"]


def scripted(*sessions):
    """A server for start_server: session by session, a reply a command, then it hangs up.

    After DATA it reads the whole message before it replies or hangs up.
    """
    sessions = list(sessions)

    async def serve(reader, writer):
        replies = list(sessions.pop(0))
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, IndexError):
            writer.write(replies.pop(0))
            while replies:
                line = await reader.readuntil(b"\r\n")
                writer.write(replies.pop(0))
                if line == b"DATA\r\n":
                    await reader.readuntil(b"\r\n.\r\n")
                    writer.write(replies.pop(0))
            await writer.drain()
        writer.close()

    return serve


@pytest.mark.parametrize(
    ("injected", "reason"),
    [
        (b"220 go\r\n250 x\r\n", "more than one reply to STARTTLS"),
        (
            b"220 go\r\n250 x\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n",
            "sent replies that nothing asked for",
        ),
    ],
)
def test_replies_injected_before_tls_are_not_believed(tmp_path, authority, injected, reason):
    """RFC 3207, 6: else a machine in the middle could take mail without a certificate."""

    async def run():
        async with world(tmp_path, authority) as (ours, path):
            server = scripted([b"220 x\r\n", b"250-x\r\n250 STARTTLS\r\n", injected])
            async with await asyncio.start_server(server, "127.0.0.2", ours.smtp_port):
                return await peers.lmtp_send(path, ["x@b.example"])

    [reply] = asyncio.run(run())
    assert reply.startswith("451 ")
    assert reply.endswith(f"SMTP: {reason}")


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ([b"554 go away\r\n"], "451 4.4.1 .*554 go away"),
        ([b"220 x\r\n", b"502 no EHLO\r\n"], "451 4.4.1 .*502 no EHLO"),
        ([b"HTTP/1.1 400 Bad Request\r\n"], "451 4.4.1 .*no SMTP reply"),
        ([*PLAIN[:2], b"550 5.7.1 not you\r\n"], "550 5.7.1 "),
        ([*PLAIN[:2], b"421 4.3.2 stopping\r\n"], "421 4.3.2 "),
        ([*PLAIN[:4], b"250 what\r\n"], "451 4.4.1 .*answered 250 to DATA"),
        ([*PLAIN[:4], b"451 4.3.0 no\r\n"], "451 4.3.0 "),
        ([*PLAIN[:5]], "451 4.4.2 .*after the whole message"),
        ([*PLAIN[:5], b"354 again\r\n"], "451 4.5.0 "),
        (PLAIN, "250 2.0.0 "),
    ],
)
def test_smtp_session_that_ends_badly_keeps_the_message(tmp_path, authority, script, outcome):
    zone = {("nauta.cu", "A"): ["127.0.0.2"]}

    async def run():
        async with peers.relay(zone, authority, tmp_path) as ours:
            path = await ours.listen(tmp_path / "lmtp")
            # The exempt domain asks twice: with TLS, which is not offered here, and without.
            server = scripted([b"220 x\r\n", b"250 x\r\n"], script)
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
            for reply in PLAIN[:step]:
                writer.write(reply)
                await reader.readuntil(b"\r\n")
            kept.append(writer)
            while True:
                writer.write(FLOOD)
                await writer.drain()
        writer.close()

    async def run():
        async with peers.relay(zone, authority, tmp_path) as ours:
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
    script = [b"220 x\r\n", b"250-x\r\n250 PIPELINING\r\n", b"250 ok\r\n", *replies, *PLAIN[4:]]

    async def run():
        async with peers.relay(zone, authority, tmp_path) as ours:
            path = await ours.listen(tmp_path / "lmtp")
            server = scripted([b"220 x\r\n", b"250 x\r\n"], script)
            async with await asyncio.start_server(server, "127.0.0.2", ours.smtp_port):
                return await peers.lmtp_send(path, [f"{n}@nauta.cu" for n in range(count)])

    answers = asyncio.run(run())
    assert [each[:3] for each in answers] == ["550" if n == 7 else "250" for n in range(count)]


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


# Connections that are kept.


def test_messages_to_one_host_share_a_connection(tmp_path, authority):
    https = peers.HttpsPeer()

    async def run():
        async with world(tmp_path, authority, https=https) as (_, path):
            for _ in range(5):
                await peers.lmtp_send(path, ["x@b.example"])

    asyncio.run(run())
    assert len(https.posts) == 5
    assert len(https.connections) == 1


def test_kept_connection_that_dies_is_no_failure_of_https(tmp_path, authority):
    """Port 25 is blocked here, so a failure would have deferred the message for minutes."""
    https = peers.HttpsPeer()

    async def run():
        async with world(tmp_path, authority, https=https) as (_, path):
            await peers.lmtp_send(path, ["x@b.example"])
            https.dying = set(https.connections)
            return await peers.lmtp_send(path, ["x@b.example"])

    assert asyncio.run(run()) == ["250 2.0.0 mx.b.example took it by HTTPS"]
    assert len(https.posts) == 2


def test_at_most_so_many_deliveries_run_to_one_host(tmp_path, authority, monkeypatch):
    monkeypatch.setattr(delivery, "PER_HOST", 5)
    https = peers.HttpsPeer()
    https.seconds = 0.02

    async def run():
        async with world(tmp_path, authority, https=https) as (_, path):
            sends = [peers.lmtp_send(path, ["x@b.example"]) for _ in range(40)]
            return await asyncio.gather(*sends)

    monkeypatch.setattr(delivery._Place, "__init__", _with_slots(delivery._Place.__init__, 5))
    replies = asyncio.run(run())
    assert {reply for [reply] in replies} == {"250 2.0.0 mx.b.example took it by HTTPS"}
    assert https.most == 5


def _with_slots(init, count):
    def made(self):
        init(self, asyncio.Semaphore(count))

    return made


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


# Time.


def test_black_holes_do_not_delay_a_live_relay(tmp_path, authority, monkeypatch):
    """100 messages to hosts that accept connections and say nothing, then one to a live one."""
    # No hole proves dead before all are asked: a known dead one would not be asked so often.
    monkeypatch.setattr(https_client, "CONNECT_SECONDS", 8)
    zone = dict(MX)
    for number in range(10):
        zone[f"dead{number}.example", "A"] = [f"127.0.1.{number}"]
    holes = [f"127.0.1.{number}" for number in range(10)]
    https, hole_https, hole_smtp = peers.HttpsPeer(), peers.BlackHole(), peers.BlackHole()

    async def run():
        async with (
            world(tmp_path, authority, zone=zone, https=https) as (ours, path),
            hole_https.at(holes, ours.https_port),
            hole_smtp.at(holes, ours.smtp_port),
        ):
            dead = [
                asyncio.create_task(
                    peers.lmtp_send(
                        path, [f"x@dead{n % 10}.example"], sender=f"{n % 3}@ours.example"
                    )
                )
                for n in range(100)
            ]
            async with asyncio.timeout(8):
                while hole_https.connections < 100:
                    await asyncio.sleep(0.01)
            began = time.monotonic()
            live = await peers.lmtp_send(path, ["x@b.example"])
            took = time.monotonic() - began
            return live, took, await asyncio.gather(*dead)

    live, took, dead = asyncio.run(run())
    assert live == ["250 2.0.0 mx.b.example took it by HTTPS"]
    assert took < 1
    for [reply] in dead:
        assert re.match(r"451 4\.4\.1 dead\d\.example: HTTPS: .*; SMTP: no reply within", reply)


def test_dead_host_holds_up_only_so_many_deliveries(tmp_path, authority, monkeypatch):
    """Once a host proved dead, those that wait for their turn with it are answered at once."""
    monkeypatch.setattr(delivery._Place, "__init__", _with_slots(delivery._Place.__init__, 5))
    monkeypatch.setattr(delivery, "PER_HOST", 5)
    hole = peers.BlackHole()

    async def run():
        async with (
            world(tmp_path, authority) as (ours, path),
            hole.at("127.0.0.2", ours.https_port),
        ):
            began = time.monotonic()
            replies = await asyncio.gather(
                *(peers.lmtp_send(path, ["x@b.example"]) for _ in range(50))
            )
            return replies, time.monotonic() - began

    replies, took = asyncio.run(run())
    assert all(reply.startswith("451 4.4.1 mx.b.example: ") for [reply] in replies)
    assert sum("enough deliveries" in reply for [reply] in replies) >= 40
    # Ten rounds of five would have taken ten times the time-out of one second.
    assert took < 5
    assert hole.connections <= 10


def test_address_of_many_names_holds_up_only_so_many_deliveries(tmp_path, authority, monkeypatch):
    """120 MX names on one slow address held 120 of Postfix's 500 processes for 270 s each."""
    monkeypatch.setattr(delivery._Place, "__init__", _with_slots(delivery._Place.__init__, 5))
    names = [f"mx{n}.example" for n in range(50)]
    zone = {(name, "A"): ["127.0.0.2"] for name in names}
    hole = peers.BlackHole()

    async def run():
        async with (
            world(tmp_path, authority, zone=zone) as (ours, path),
            hole.at("127.0.0.2", ours.https_port),
        ):
            sends = (peers.lmtp_send(path, [f"x@{n}"], sender=f"{n}@ours.example") for n in names)
            first = await asyncio.gather(*sends)
            before = hole.connections
            # From now on it is known, under each of its names.
            sends = (peers.lmtp_send(path, [f"x@{n}"], sender=f"{n}@ours.example") for n in names)
            return first, before, await asyncio.gather(*sends), hole.connections - before

    first, before, second, after = asyncio.run(run())
    assert all(reply.startswith("451 4.4.1 mx") for [reply] in [*first, *second])
    assert before <= 10
    assert 1 <= after <= delivery.PER_DEAD_HOST


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ],
)
def test_place_of_a_host_is_what_one_machine_has(address, place):
    host = destinations.Host("mx.example", (address, "192.0.2.8"), destinations.Tls.VERIFIED)
    assert delivery.find_place(host) == place


def test_sender_has_only_so_many_messages_under_way(tmp_path, authority, monkeypatch):
    """Two accounts held all 500 processes for two days."""
    monkeypatch.setattr(delivery, "MESSAGES_PER_SENDER", 3)
    https = peers.HttpsPeer()

    async def run():
        async with world(tmp_path, authority, https=https) as (ours, path):
            https.seconds = 30
            slow = [asyncio.create_task(peers.lmtp_send(path, ["x@b.example"])) for _ in range(3)]
            while https.running < 3:
                await asyncio.sleep(0.01)
            https.seconds = 0
            fourth = await peers.lmtp_send(path, ["x@b.example", "y@b.example"])
            others = [
                await peers.lmtp_send(path, ["x@b.example"], sender=sender)
                for sender in ("b@ours.example", "")
            ]
            for task in slow:
                task.cancel()
            await asyncio.wait(slow)
            while ours.lmtp._sessions:
                await asyncio.sleep(0.01)
            return fourth, others, await peers.lmtp_send(path, ["x@b.example"])

    fourth, others, later = asyncio.run(run())
    assert fourth == ["451 4.3.2 too many messages of this sender wait for slow hosts"] * 2
    assert [reply[:3] for [reply] in others] == ["250", "250"]
    assert later[0].startswith("250 ")


def test_sender_has_only_so_many_deliveries_under_way(monkeypatch):
    monkeypatch.setattr(delivery, "DELIVERIES_PER_SENDER", 5)

    async def run():
        done = asyncio.Event()

        async def to_domain(domain, sender, recipients, message):
            await done.wait()
            return dict.fromkeys(recipients, delivery.Answer(250, domain))

        transactions = delivery.Transactions(to_domain)
        one = transactions.start("a@x", [f"x@{n}" for n in range(3)], None)
        two = transactions.start("a@x", [f"x@{n}" for n in range(3)], None)
        codes = {(await task)[name].code for name, task in two.items()}
        three = transactions.start("a@x", ["x@1", "y@1", "x@2"], None)
        done.set()
        codes |= {(await task)[name].code for name, task in (one | three).items()}
        await asyncio.sleep(0)
        return codes, transactions._under_way

    assert asyncio.run(run()) == ({451, 250}, {})


def test_host_that_is_slow_and_takes_nothing_is_treated_as_dead(tmp_path, authority):
    smtp = peers.SmtpPeer(DATA="451 4.7.1 later")

    async def run():
        async with world(tmp_path, authority, smtp=smtp) as (ours, path):
            original = smtp.handle_DATA

            async def slow(*arguments):
                ours.clock.ahead += delivery.SLOW_SECONDS + 1
                return await original(*arguments)

            smtp.handle_DATA = slow
            await peers.lmtp_send(path, ["x@b.example"])
            [place] = ours.delivery._places.values()
            dead = place.dead
            smtp.handle_DATA = original
            await peers.lmtp_send(path, ["x@b.example"])
            return dead, place.dead

    assert asyncio.run(run()) == (True, False)


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


def test_dead_host_that_returned_is_used_again(tmp_path, authority):
    https = peers.HttpsPeer()

    async def run():
        async with world(tmp_path, authority) as (ours, path):
            first = await peers.lmtp_send(path, ["x@b.example"])
            async with https.at("127.0.0.2", ours.https_port, authority.server("mx.b.example")):
                return first + await peers.lmtp_send(path, ["x@b.example"])

    first, second = asyncio.run(run())
    assert first.startswith("451 4.4.1 ")
    assert second.startswith("250 ")


def test_hosts_are_given_up_when_the_time_is_over(tmp_path, authority, monkeypatch):
    monkeypatch.setattr(delivery, "START_SECONDS", 0.5)
    names = [f"mx{number}.example" for number in range(5)]
    zone = {("b.example", "MX"): [f"{10 + i} {name}." for i, name in enumerate(names)]}
    zone |= {(name, "A"): ["127.0.0.2"] for name in names}
    hole = peers.BlackHole()

    async def run():
        async with (
            world(tmp_path, authority, zone=zone) as (ours, path),
            hole.at("127.0.0.2", ours.https_port),
            hole.at("127.0.0.2", ours.smtp_port),
        ):
            return await peers.lmtp_send(path, ["x@b.example"])

    assert asyncio.run(run())[0].startswith("451 4.4.1 mx0.example: ")
    assert hole.connections == 2


def test_memory_of_hosts_is_bounded(tmp_path, authority, monkeypatch):
    monkeypatch.setattr(delivery, "MAX_HOSTS_KNOWN", 3)
    zone = {(f"d{n}.example", "A"): ["127.0.0.2"] for n in range(10)}

    async def run():
        async with world(tmp_path, authority, zone=zone) as (ours, path):
            for n in range(10):
                await peers.lmtp_send(path, [f"x@d{n}.example"])
            return len(ours.delivery._known), len(ours.delivery._places)

    assert max(asyncio.run(run())) <= 3


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
