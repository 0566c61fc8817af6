"""The check compares records with real name servers: aliases, delegation, several servers."""

import contextlib
import os

import dns.name
import dns.rdata
import dns.rdatatype
import pytest
from chatmaild.dns import authoritative
from chatmaild.dns.records import WHY
from salt.exceptions import CommandExecutionError, SaltInvocationError
from support import dnsservers
from support.dnsservers import GOOD_ZONE, PRIMARY, SECONDARY, contents, set_records, world
from support.own_modules import ADDRESSES, DOMAIN, bad_records

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="name servers on port 53 need root")


def test_alias_that_leads_to_the_relay_is_right_and_stays(own, tmp_path):
    """Both www and mta-sts may be an alias of another name of the relay, or have its addresses."""
    own.relay["dns"]["addresses"] = ADDRESSES[:1]
    with world(tmp_path):
        own.dns.publish()
        set_records(f"www.{DOMAIN}.", "CNAME", "Relay.Example.NET.")
        set_records(f"mta-sts.{DOMAIN}.", "CNAME")
        set_records(f"mta-sts.{DOMAIN}.", "A", ADDRESSES[0])
        assert bad_records(own) == {}
        assert own.dns.changes() == []
        set_records(f"mta-sts.{DOMAIN}.", "A", "203.0.113.3")
        assert bad_records(own) == {f"mta-sts.{DOMAIN}. CNAME": ["203.0.113.3"]}
        changed = {(c["type"], *c["old"], *c["new"]) for c in own.dns.publish()}
        assert changed == {("A", "203.0.113.3"), ("CNAME", f"{DOMAIN}.")}
        assert bad_records(own) == {}


def test_key_record_behind_an_alias_is_right_while_it_has_our_key(own, tmp_path):
    name = f"{own.selectors[0]}._domainkey.{DOMAIN}."
    chunks = " ".join(f'"{chunk}"' for chunk in own.dkim.txt(own.selectors[0])["chunks"])
    with world(tmp_path):
        own.dns.publish()
        elsewhere = {"address": dnsservers.ELSEWHERE, "zone": "example.net."}
        set_records("key.example.net.", "TXT", chunks, **elsewhere)
        set_records(name, "TXT")
        set_records(name, "CNAME", "key.example.net.")
        assert bad_records(own) == {}
        assert own.dns.changes() == []
        set_records("key.example.net.", "TXT", **elsewhere)
        assert bad_records(own) == {f"{name} TXT": ["CNAME key.example.net."]}
        assert {c["type"] for c in own.dns.publish()} == {"CNAME", "TXT"}
        assert bad_records(own) == {}


def test_alias_in_place_of_the_domain_is_replaced_at_once(own, tmp_path):
    """A name with an alias can have no other record, even if the alias has the right addresses."""
    with world(tmp_path, zone=dnsservers.ZONE):
        set_records(f"{DOMAIN}.", "CNAME", "relay.example.net.")
        kinds = {"A", "AAAA", "MX", "TXT", "CAA"}
        wrong = {f"{DOMAIN}. {kind}": ["CNAME relay.example.net."] for kind in kinds}
        found = bad_records(own)
        assert wrong.items() <= found.items()
        own.dns.publish()
        assert bad_records(own) == {}


def test_name_that_the_relay_does_not_have_is_refused(own):
    with pytest.raises(SaltInvocationError, match="no record of the name other"):
        own.dns.check("other.example")


def test_alias_that_leads_nowhere_is_named_with_the_rest_of_the_answer(own, tmp_path):
    """A dead zone behind one alias must not hide the state of the other records."""
    authoritative.QUESTION_TIMEOUT = 1
    with world(tmp_path):
        own.dns.publish()
        for name in (f"_dmarc.{DOMAIN}.", f"www.{DOMAIN}."):
            set_records(name, "TXT")
            set_records(name, "CNAME", "x.dead.")
        found = ["CNAME x.dead."]
        assert bad_records(own) == {
            f"www.{DOMAIN}. CNAME": found,
            f"_dmarc.{DOMAIN}. TXT": found,
        }
        own.dns.publish()
        assert bad_records(own) == {}


def test_delegation_below_the_known_zone_is_followed(own, tmp_path):
    """We know only the servers of the parent zone. They refer us to the servers of the domain."""
    own_zone = {f"{DOMAIN}.": GOOD_ZONE.replace(PRIMARY, SECONDARY)}
    delegated = f"chat 60 NS ns.chat\nns.chat 60 A {SECONDARY}\n"
    with (
        world(tmp_path, zone=dnsservers.ZONE + delegated),
        dnsservers.knot(tmp_path / "delegated", SECONDARY, own_zone),
    ):
        own.relay["dns"] |= {"server": f"{SECONDARY}:53"}
        own.dns.publish()
        view = authoritative.View()
        parent, child = dns.name.from_text("example.org."), dns.name.from_text(f"{DOMAIN}.")
        view.zones[parent] = {dns.name.from_text("ns1.example.org."): [PRIMARY]}
        assert view.addresses(child) == ADDRESSES
        assert sorted(view.zones) == [parent, child]
        assert own.dns.check()["zone"] == f"{DOMAIN}."
        assert bad_records(own) == {}
        own.relay["dns"] |= {"server": f"{PRIMARY}:53", "zone": "example.org"}
        with pytest.raises(CommandExecutionError, match="delegated away from zone example"):
            own.dns.publish()


def test_hidden_primary_is_updated_and_the_public_servers_are_asked(own, tmp_path):
    """No NS record names the primary. Other relays ask its secondary."""
    root = dnsservers.ROOT_ZONE.replace(PRIMARY, SECONDARY)
    zone = dnsservers.ZONE.replace(PRIMARY, SECONDARY)
    copied = dnsservers.knot(
        tmp_path / "secondary", SECONDARY, {"example.org.": ""}, secondary_of=PRIMARY
    )
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        start(dnsservers.knot(tmp_path / "root", dnsservers.ROOT, {".": root}))
        start(dnsservers.unbound(tmp_path / "resolver"))
        primary = {"example.org.": zone}
        start(dnsservers.knot(tmp_path / "primary", PRIMARY, primary, notify=SECONDARY))
        start(copied)
        own.dns.publish()
        verified = own.dns_state.verified("all of them", wait=20)
        assert verified["result"] is True, verified
        assert own.dns.check()["servers"] == {"ns1.example.org.": "answers"}
        assert contents(SECONDARY) == contents(PRIMARY)


def test_server_that_lags_and_one_that_is_down_are_named(own, tmp_path):
    down = f"ns3 60 A {dnsservers.NOBODY}\n@ 60 NS ns3\n"
    both_zones = dnsservers.ZONE + f"ns2 60 A {SECONDARY}\n@ 60 NS ns2\n" + down
    with (
        world(tmp_path, zone=both_zones),
        dnsservers.knot(tmp_path / "two", SECONDARY, {"example.org.": both_zones}),
    ):
        own.dns.publish()
        entry = own.dns.check()["records"][0]
        assert (entry["status"], entry["servers"]) == ("missing", ["ns2.example.org."])
        set_records("ns2.example.org.", "A")
        set_records("example.org.", "NS", "ns1", "ns3")
        found = own.dns.check()
        assert found["servers"]["ns1.example.org."] == "answers"
        assert "does not answer" in found["servers"]["ns3.example.org."]
        assert found["result"] is True


def test_silent_servers_are_an_error(own, tmp_path):
    authoritative.QUESTION_TIMEOUT = 1
    root = dnsservers.ROOT_ZONE.replace(PRIMARY, dnsservers.NOBODY)
    with world(tmp_path, root=root):
        with pytest.raises(CommandExecutionError, match="do its name servers run"):
            own.dns.check()
        result = own.dns_state.verified("all of them", wait=0)
        assert result["result"] is False
        assert "do its name servers run" in result["comment"]


def test_silent_servers_of_a_part_are_named(own, tmp_path):
    delegated = f"_domainkey.chat 60 NS ns9\nns9 60 A {dnsservers.NOBODY}\n"
    with (
        world(tmp_path, zone=dnsservers.ZONE + delegated),
        pytest.raises(
            CommandExecutionError, match=r"no authoritative .* ns9.example.org. does not"
        ),
    ):
        own.dns.check()


def test_resolver_that_is_down_is_an_error(own):
    with pytest.raises(CommandExecutionError, match="does the resolver of this machine work"):
        own.dns.check()


def test_report_shows_what_is_wrong_first_and_why(own, tmp_path):
    with world(tmp_path):
        own.dns.publish()
        set_records(f"{DOMAIN}.", "MX", "10 mx.example.net.")
        lines = own.dns.report().splitlines()
    start = lines.index(f"wrong      {DOMAIN}. MX")
    assert start < lines.index(f"ok         {DOMAIN}. A")
    assert lines[start + 1 : start + 4] == [
        f"           expected: 10 {DOMAIN}.",
        "           found:    10 mx.example.net.",
        f"           why:      {WHY['MX']}",
    ]
    assert lines[-1] == "DNS is not complete."
    assert f"PTR of {ADDRESSES[0]}: none" in lines
