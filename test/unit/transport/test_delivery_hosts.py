"""Which hosts a message goes to: DNS, preference, loops, and addresses that are no destination."""

import asyncio
import re

import pytest
from chatmaild.transport import delivery, destinations, smtp_client
from support import transport_peers as peers
from support.running_transport import MX, deliver, transport, world

pytestmark = pytest.mark.usefixtures("short_times")

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
        async with transport(zone, authority, tmp_path, private_networks=()) as ours:
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
