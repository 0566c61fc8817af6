"""Names, addresses and answers of DNS, each at its limit."""

import asyncio
import contextlib
import socket
import time

import dns.exception
import dns.message
import dns.resolver
import pytest
from chatmaild.transport import destinations
from chatmaild.transport.destinations import Destinations, NoHost
from support import transport_peers as peers


class Records:
    """A record set, or an error, for each name and type; without any the name does not exist."""

    def __init__(self, zone):
        self.zone = zone
        self.asked = []

    async def resolve(self, name, rdtype, lifetime):
        text = name.to_text(omit_final_dot=True)
        self.asked.append((text, rdtype))
        found = self.zone.get((text, rdtype), dns.resolver.NXDOMAIN)
        if not isinstance(found, list):
            raise found
        return dns.rrset.from_text(name, 60, "IN", rdtype, *found)


def find(zone, domain="b.example", use_ipv6=True):
    """Return the hosts of a domain by their names, or the answer when there is none."""
    records = Records(zone)
    made = Destinations(("ours.example",), use_ipv6, records, lambda _: False)

    async def run():
        return [host async for host in made.hosts(domain)]

    try:
        return asyncio.run(run()), records.asked
    except NoHost as error:
        return error.answer.line(), records.asked


def names(zone, **options):
    hosts, _ = find(zone, **options)
    return hosts if isinstance(hosts, str) else [host.name for host in hosts]


@pytest.mark.parametrize(
    ("name", "good"),
    [
        (".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61]), True),
        (".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 62]), False),
        ("a" * 63, True),
        ("a" * 64, False),
        ("x.a", True),
        ("_dmarc.a-b.example", True),
        ("x.7", False),
        ("x.7a", True),
        ("7.x", True),
        ("", False),
        ("x.", False),
        (".x", False),
        ("X", False),
        ("x\n", False),
    ],
)
def test_host_name_has_253_octets_at_most_and_labels_of_63(name, good):
    assert destinations.is_host_name(name) is good


def test_domain_of_many_hosts_has_five():
    mx = [f"{n} mx{n}.example." for n in range(1, 8)]
    zone = {("b.example", "MX"): mx} | {(f"mx{n}.example", "A"): ["9.9.9.9"] for n in range(1, 8)}
    assert names(zone) == [f"mx{n}.example" for n in range(1, 6)]


def test_host_of_many_addresses_has_four_and_those_of_ipv4_first():
    zone = {
        ("b.example", "A"): [f"9.9.9.{n}" for n in (1, 2, 3)],
        ("b.example", "AAAA"): ["2a00::1", "2a00::2"],
    }
    zone["b.example", "MX"] = dns.resolver.NoAnswer
    [host], _ = find(zone)
    assert sorted(host.addresses[:3]) == ["9.9.9.1", "9.9.9.2", "9.9.9.3"]
    assert host.addresses[3] in ("2a00::1", "2a00::2")
    assert len(host.addresses) == 4


def two_hosts(first, second):
    return {
        ("b.example", "MX"): ["10 one.example.", "20 two.example."],
        ("one.example", "A"): first,
        ("two.example", "A"): second,
        ("one.example", "AAAA"): dns.resolver.NoAnswer,
        ("two.example", "AAAA"): dns.resolver.NoAnswer,
    }


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (dns.resolver.NXDOMAIN, ["9.9.9.9"], ["two.example"]),
        (["9.9.9.9"], dns.resolver.NXDOMAIN, ["one.example"]),
        (["10.0.0.1"], ["9.9.9.9"], ["two.example"]),
        (["10.0.0.1", "9.9.9.9"], ["9.9.9.9"], ["one.example", "two.example"]),
        (dns.resolver.NXDOMAIN, dns.resolver.NXDOMAIN, "550 5.1.2 one.example does not exist"),
        (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN, "550 5.4.4 one.example has no address"),
        (["10.0.0.1"], dns.resolver.NXDOMAIN, "550 5.4.4 one.example has no public address"),
        (dns.resolver.NXDOMAIN, ["10.0.0.1"], "550 5.1.2 one.example does not exist"),
        (
            dns.resolver.NoNameservers,
            dns.resolver.NXDOMAIN,
            "451 4.4.3 DNS did not answer for one.example A (NoNameservers)",
        ),
        (
            dns.resolver.NXDOMAIN,
            dns.resolver.LifetimeTimeout(timeout=1, errors=[]),
            "451 4.4.3 DNS did not answer for two.example A (LifetimeTimeout)",
        ),
        (
            OSError("Network is unreachable"),
            dns.resolver.NXDOMAIN,
            "451 4.4.3 DNS did not answer for one.example A (OSError)",
        ),
    ],
)
def test_host_that_cannot_be_used_leads_to_the_next_and_a_failure_of_dns_is_told(
    first, second, found
):
    """A message that may be delivered later is not returned because of another host."""
    assert names(two_hosts(first, second)) == found


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        (5, "550 5.4.6 mail for b.example loops back to this relay"),
        (10, "550 5.4.6 mail for b.example loops back to this relay"),
        (15, ["one.example"]),
        (20, ["one.example"]),
        (25, ["one.example", "two.example"]),
    ],
)
def test_host_that_is_not_better_than_this_relay_is_none(ours, found):
    """RFC 5321, 5.1: otherwise a message would go round between two backup hosts."""
    zone = two_hosts(["9.9.9.9"], ["9.9.9.9"]) | {("ours.example", "A"): ["9.9.9.8"]}
    zone["b.example", "MX"] = [*zone["b.example", "MX"], f"{ours} ours.example."]
    assert names(zone) == found


@pytest.mark.parametrize("kind", ["A", "AAAA"])
def test_type_that_dns_could_not_tell_makes_the_answer_temporary(kind):
    zone = {("b.example", "MX"): dns.resolver.NoAnswer}
    zone["b.example", kind] = dns.resolver.NoNameservers
    assert names(zone).startswith(f"451 4.4.3 DNS did not answer for b.example {kind} (")


def test_address_of_one_type_is_enough():
    zone = {
        ("b.example", "MX"): dns.resolver.NoAnswer,
        ("b.example", "A"): ["9.9.9.9"],
        ("b.example", "AAAA"): dns.resolver.NoNameservers,
    }
    assert names(zone) == ["b.example"]


@pytest.mark.parametrize(
    ("domain", "use_ipv6", "found"),
    [
        ("[9.9.9.9]", True, ["9.9.9.9"]),
        ("[9.9.9.9]", False, ["9.9.9.9"]),
        ("[ipv6:2a00::1]", True, ["2a00::1"]),
        ("[ipv6:2a00::1]", False, "550 5.4.4 IPv6 is disabled on this relay"),
        ("[ipv6:9.9.9.9]", True, "550 5.1.2 [ipv6:9.9.9.9] is no valid address literal"),
        ("[10.0.0.1]", True, "550 5.4.4 10.0.0.1 has no public address"),
    ],
)
def test_literal_is_an_address_that_dns_is_not_asked_for(domain, use_ipv6, found):
    hosts, asked = find({}, domain, use_ipv6)
    assert (hosts if isinstance(hosts, str) else [host.name for host in hosts]) == found
    assert asked == []


def test_null_mx_beside_others_is_one():
    zone = {("b.example", "MX"): ["10 mx.b.example.", "0 ."], ("mx.b.example", "A"): ["9.9.9.9"]}
    assert names(zone) == "556 5.1.10 b.example accepts no mail (null MX)"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1fff:ffff::1", False),
        ("2000::", True),
        ("3fff:ffff:ffff::", True),
        ("4000::1", False),
    ],
)
def test_public_ipv6_addresses_are_global_unicast(address, public):
    assert destinations.is_public(address) is public


def asked_by_the_system_resolver(zone, ask):
    """Return the queries that a coroutine function of Destinations makes to a server of its own."""
    asked = []

    class Asked(peers.Dns):
        def datagram_received(self, data, address):
            asked.append(dns.message.from_wire(data))
            super().datagram_received(data, address)

    async def run():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Asked(zone), ("127.0.0.1", 0))
        resolver = destinations.system_resolver()
        resolver.nameservers, resolver.port = ["127.0.0.1"], transport.get_extra_info("sockname")[1]
        try:
            await ask(Destinations((), False, resolver, lambda _: False))
        finally:
            transport.close()

    asyncio.run(run())
    return asked


def test_system_resolver_asks_for_answers_that_fit_into_one_packet():
    """RFC 9715. An answer in pieces is lost on many ways."""

    async def ask(found):
        assert await found.addresses("b.example") == ("9.9.9.9",)

    [query] = asked_by_the_system_resolver({("b.example", "A"): ["9.9.9.9"]}, ask)
    assert (query.edns, query.ednsflags, query.payload) == (0, 0, 1232)


def test_answer_of_dns_is_kept_as_long_as_it_says(monkeypatch):
    """The TTL of the test's server is 60 s. An error is not kept."""
    zone = {("b.example", "A"): ["9.9.9.9"], ("c.example", "A"): "SERVFAIL"}

    async def ask(found):
        for _ in range(2):
            await found.addresses("b.example")
            with pytest.raises(NoHost):
                await found.addresses("c.example")
        zone[("b.example", "A")] = ["9.9.9.10"]
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 61)
        assert await found.addresses("b.example") == ("9.9.9.10",)

    asked = asked_by_the_system_resolver(zone, ask)
    names = [query.question[0].name.to_text() for query in asked]
    assert names.count("b.example.") == 2
    assert names.count("c.example.") >= 2


@pytest.mark.parametrize(("address", "ours"), [("127.0.0.1", True), ("9.9.9.9", False)])
def test_address_is_ours_whatever_port_is_taken(address, ours):
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        with contextlib.suppress(PermissionError):
            taken.bind(("127.0.0.1", 1))
        assert destinations.is_local_address(address) is ours
