"""The DNS module and states: comparison by meaning, and publication to real Knot and BIND."""

import contextlib
import http.server
import json
import os
import random
import re
import shlex
import subprocess
import threading

import dns.name
import dns.rdata
import dns.rdatatype
import pytest
from chatmaild.dkim import key_files
from chatmaild.dns import authoritative, comparison, publishing
from chatmaild.dns.rdata import make_rdata
from chatmaild.dns.records import WHY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError, SaltInvocationError
from support import dnsservers, own_modules
from support.dnsservers import PRIMARY, SECONDARY, contents, set_records
from support.own_modules import ACCOUNT, ADDRESSES, DOMAIN

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="name servers on port 53 need root")

# Generated cases change one set of modules again and again, which is what is meant.
GENERATED = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
KEY = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1arFHsuWB9"


@pytest.fixture
def own(tmp_path):
    own = own_modules.load(tmp_path, own_modules.settings(tmp_path))
    own.selectors = own_modules.make_keys(own)
    return own


@contextlib.contextmanager
def servers(tmp_path, kind="knot", zone=dnsservers.ZONE + dnsservers.OTHERS, root=None):
    """Run root, resolver, somebody else's zone and a primary for example.org."""
    elsewhere = {"example.net.": dnsservers.ELSEWHERE_ZONE}
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        root_zone = {".": root or dnsservers.ROOT_ZONE}
        start(dnsservers.knot(tmp_path / "root", dnsservers.ROOT, root_zone))
        start(dnsservers.knot(tmp_path / "elsewhere", dnsservers.ELSEWHERE, elsewhere))
        start(dnsservers.unbound(tmp_path / "resolver"))
        start(dnsservers.SERVERS[kind](tmp_path / kind, PRIMARY, {"example.org.": zone}))
        yield


both = pytest.mark.parametrize("kind", ["knot", "bind"])


def bad_records(own):
    """Return {"name type": found} of what `check` takes for missing or wrong."""
    return {
        f"{entry['name']} {entry['type']}": entry["found"]
        for entry in own.dns.check()["records"]
        if entry["status"] not in ("ok", "not needed")
    }


# The records.


def values(own):
    return {(r["name"], r["type"], r["value"]) for r in own.dns.records()}


def test_records_are_those_of_the_contract(own):
    found = values(own)
    rsa, ed25519 = own.selectors
    expected = {
        (f"{DOMAIN}.", "A", ADDRESSES[0]),
        (f"{DOMAIN}.", "AAAA", ADDRESSES[1]),
        (f"{DOMAIN}.", "MX", f"10 {DOMAIN}."),
        (f"mta-sts.{DOMAIN}.", "CNAME", f"{DOMAIN}."),
        (f"www.{DOMAIN}.", "CNAME", f"{DOMAIN}."),
        (f"_mta-sts.{DOMAIN}.", "TXT", f"v=STSv1; id={own.relay['mta_sts_id']}"),
        (f"{DOMAIN}.", "TXT", "v=spf1 a ~all"),
        (f"_dmarc.{DOMAIN}.", "TXT", "v=DMARC1;p=reject;adkim=s;aspf=s"),
        (f"{DOMAIN}.", "CAA", f'0 issue "letsencrypt.org;accounturi={ACCOUNT}"'),
        (f"_adsp._domainkey.{DOMAIN}.", "TXT", "dkim=discardable"),
        (f"_submission._tcp.{DOMAIN}.", "SRV", f"0 1 587 {DOMAIN}."),
        (f"_submissions._tcp.{DOMAIN}.", "SRV", f"0 1 465 {DOMAIN}."),
        (f"_imap._tcp.{DOMAIN}.", "SRV", f"0 1 143 {DOMAIN}."),
        (f"_imaps._tcp.{DOMAIN}.", "SRV", f"0 1 993 {DOMAIN}."),
    }
    keys = {(name, kind) for name, kind, _ in found - expected}
    assert expected <= found
    assert keys == {(f"{name}._domainkey.{DOMAIN}.", "TXT") for name in (rsa, ed25519)}
    needed = {(r["name"], r["type"]) for r in own.dns.records() if r["need"] == "required"}
    assert needed == keys | {(name, kind) for name, kind, _ in list(expected) if kind in MUST} | {
        (f"_mta-sts.{DOMAIN}.", "TXT")
    }


MUST = {"A", "AAAA", "MX", "CNAME"}


def test_test_domain_has_no_mta_sts_and_no_caa(own):
    own.relay |= {"mail_domain": "_chat.example.org", "form": "test", "tls_mode": "self_signed"}
    own.relay["mta_sts_id"] = None
    names = {(name, kind) for name, kind, _ in values(own)}
    assert not {name for name, kind in names if "mta-sts" in name or kind == "CAA"}
    assert ("_chat.example.org.", "MX") in names
    assert ("www._chat.example.org.", "CNAME") in names


def test_relay_that_is_an_address_needs_no_dns(own):
    own.relay |= {"mail_domain": "198.51.100.7", "form": "ip", "dkim_required": False}
    assert own.dns.records() == []
    assert own.dns.zone() == ""
    assert own.dns.check()["result"] is True
    assert own.dns.report() == "198.51.100.7 needs no DNS records."


PUBLIC = st.lists(
    st.one_of(
        st.integers(1, 254).map(lambda n: f"198.51.100.{n}"),
        st.integers(1, 0xFFFF).map(lambda n: f"2001:db8::{n:x}"),
    ),
    min_size=1,
    max_size=6,
    unique=True,
)
PRIVATE = ["127.0.0.1", "10.1.2.3", "192.168.0.9", "172.20.0.1", "100.64.0.1", "::1", "fe80::1"]


@GENERATED
@given(public=PUBLIC, private=st.lists(st.sampled_from(PRIVATE)), disable_ipv6=st.booleans())
def test_addresses_are_the_public_ones_of_the_machine(own, public, private, disable_ipv6):
    """Several addresses, IPv6 alone, and private ones among them."""
    found = public + private
    random.Random(len(found)).shuffle(found)
    own.relay["dns"]["addresses"] = None
    own.relay["disable_ipv6"] = disable_ipv6
    own.salt["network.ip_addrs"] = lambda: [a for a in found if ":" not in a]
    own.salt["network.ip_addrs6"] = lambda: [a for a in found if ":" in a]
    wanted = {a for a in public if not (disable_ipv6 and ":" in a)}
    if wanted:
        assert {v for _, kind, v in values(own) if kind in ("A", "AAAA")} == wanted
    else:
        with pytest.raises(CommandExecutionError, match="set chatmail:dns:addresses"):
            own.dns.records()


def test_ca_that_is_not_known_gets_a_record_only_by_its_name(own, tmp_path):
    own.relay["acme_directory"] = "https://ca.example/acme/dir"
    assert not [v for _, kind, v in values(own) if kind == "CAA"]
    account = tmp_path / "accounts" / "ca.example" / "acme" / "dir" / "1"
    account.mkdir(parents=True)
    (account / "regr.json").write_text('{"uri": "https://ca.example/a/1"}')
    assert not [v for _, kind, v in values(own) if kind == "CAA"]
    own.relay["dns"]["caa_issuer"] = "ca.example"
    expected = '0 issue "ca.example;accounturi=https://ca.example/a/1"'
    assert [v for _, kind, v in values(own) if kind == "CAA"] == [expected]
    (account / "regr.json").write_text("{}")
    with pytest.raises(CommandExecutionError, match="names no ACME account"):
        own.dns.records()


LABELS = st.sampled_from(["chat", "xn--bcher-kva", "xn--80ak6aa92e", "a-b", "x" * 62, "0"])


@GENERATED
@given(
    labels=st.lists(LABELS, min_size=1, max_size=3),
    test_domain=st.booleans(),
    addresses=PUBLIC,
    caa=st.booleans(),
)
def test_zone_text_is_accepted_by_bind_and_knot(own, tmp_path, labels, test_domain, addresses, caa):
    """As a zone of its own, and as a part of another one; international names among them."""
    domain = ("_" if test_domain else "") + ".".join(labels) + ".example.org"
    form = "test" if test_domain else "domain"
    own.relay |= {"mail_domain": domain, "form": form, "tls_mode": "acme" if caa else "external"}
    own.relay["dns"]["addresses"] = addresses
    whole = own.dns.zone("ns1.example.net, ns2.example.net.")
    accepted(tmp_path, domain, whole)
    accepted(tmp_path, "example.org", dnsservers.ZONE + own.dns.zone())


def accepted(tmp_path, origin, text):
    path = tmp_path / "zone"
    path.write_text(text)
    for argv in (
        ["named-checkzone", "-k", "ignore", origin, path],
        ["kzonecheck", "-o", origin, path],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{argv[0]}: {done.stdout}{done.stderr}\n{text}"


# Comparison by meaning, of all records of a relay.


def cased(draw_flips, name):
    return "".join(c.upper() if flip else c for c, flip in zip(name, draw_flips, strict=False))


@GENERATED
@given(data=st.data())
def test_same_record_in_any_chunking_case_and_order_is_right(own, data):
    """What providers' panels do to a value: split it, change case, drop or add final dots."""
    records = own.dns.records()
    for group in comparison.make_groups(own.relay, records, None):
        if not group.wanted or group.type == "CNAME":
            continue
        found = [disguised(data, group.type, value) for value in group.wanted]
        found = data.draw(st.permutations(found))
        assert comparison.judge(group.type, group.wanted, found) == "ok", (group, found)


def disguised(data, rdtype, value):
    """Return a value as DNS gives it back after somebody typed it in another way."""
    if rdtype == "TXT":
        octets, chunks = value.encode(), []
        while octets:
            size = data.draw(st.integers(1, min(255, len(octets))))
            chunks.append(octets[:size])
            octets = octets[size:]
        text = " ".join('"' + chunk.decode() + '"' for chunk in chunks)
    else:
        flips = data.draw(st.lists(st.booleans(), min_size=len(value), max_size=len(value)))
        host = value if rdtype in ("A", "CAA") else cased(flips, value)
        dot = "" if rdtype in ("A", "AAAA", "CAA") else "."
        text = host.rstrip(".") + dot if rdtype != "CAA" else host
    rdata = dns.rdata.from_text("IN", rdtype, text, relativize=False)
    wire = rdata.to_wire()
    back = dns.rdata.from_wire("IN", rdtype, wire, 0, len(wire))
    return own_text(back)


def own_text(rdata):
    if rdata.rdtype == dns.rdatatype.TXT:
        return b"".join(rdata.strings).decode()
    return rdata.to_text()


# Against name servers.


@both
def test_empty_zone_becomes_complete_and_others_records_stay(own, tmp_path, kind):
    with servers(tmp_path, kind):
        before = contents(PRIMARY)
        state = own.dns_state
        state.__opts__ = {"test": True}
        announced = state.published("records")
        assert announced["result"] is None
        assert contents(PRIMARY) == before
        state.__opts__ = {"test": False}
        made = state.published("records")
        assert (made["result"], made["changes"]) == (True, announced["changes"])
        after = contents(PRIMARY)
        assert before <= after
        assert {(n, t) for n, t, _ in after - before} == {
            (r["name"], r["type"]) for r in own.dns.records()
        }
        again = state.published("records")
        assert (again["result"], again["changes"]) == (True, {})
        assert bad_records(own) == {}
        assert state.verified("all of them")["result"] is True
        assert contents(PRIMARY) == after


BROKEN = {
    f"{DOMAIN}. A": ["203.0.113.1"],
    f"{DOMAIN}. AAAA": ["2001:db8::bad", "2001:db8::7"],
    f"{DOMAIN}. MX": ["10 mx.example.net."],
    f"www.{DOMAIN}. CNAME": ["web.example.net."],
    f"mta-sts.{DOMAIN}. CNAME": ["nothing.example.net."],
    f"_mta-sts.{DOMAIN}. TXT": ['"v=STSv1; id=old"'],
    f"{DOMAIN}. TXT": ['"proof=of ownership"', '"v=spf1 -all"'],
    f"_dmarc.{DOMAIN}. TXT": ['"v=DMARC1;p=none"'],
    f"{DOMAIN}. CAA": ['0 issue "other.example"', '0 iodef "mailto:admin@example.org"'],
    f"_adsp._domainkey.{DOMAIN}. TXT": ['"dkim=unknown"'],
    f"_imaps._tcp.{DOMAIN}. SRV": ["0 1 995 chat.example.org."],
    "RSA TXT": ['"v=DKIM1;k=rsa;p=AAAA"'],
    "ED25519 TXT": ['"v=DKIM1;k=ed25519;p=AAAA" "BBBB"'],
}


@both
def test_broken_record_of_each_type_is_named_and_mended(own, tmp_path, kind):
    names = {"RSA": own.selectors[0], "ED25519": own.selectors[1]}
    with servers(tmp_path, kind):
        own.dns.publish()
        complete = contents(PRIMARY)
        for where, data in BROKEN.items():
            name, rdtype = where.split()
            if name in names:
                name = f"{names[name]}._domainkey.{DOMAIN}."
            for each in (data, []):
                set_records(name, rdtype, *each)
                assert list(bad_records(own)) == [f"{name} {rdtype}"], (where, each)
                changed = own.dns.publish()
                assert [(c["name"], c["type"]) for c in changed] == [(name, rdtype)]
                assert bad_records(own) == {}
        kept = {row for row in complete if row[1] in ("TXT", "CAA") and row[0] == f"{DOMAIN}."}
        after = contents(PRIMARY)
        # Emptied with the rest, others' values could not come back: all but those are as before.
        assert {(n, t) for n, t, _ in after} == {(n, t) for n, t, _ in complete}
        assert complete - after <= kept


def refused(own, match):
    """Let `publish` fail with this text; nothing may have changed and no secret is told."""
    with pytest.raises(CommandExecutionError, match=match) as raised:
        own.dns.publish()
    told = str(raised.value) + str(own.dns_state.published("records"))
    assert dnsservers.SECRET not in told
    assert own.dns_state.published("records")["result"] is False


@both
def test_wrong_keys_are_told_apart_and_nothing_is_published(own, tmp_path, kind):
    other = dnsservers.SECRET.replace("9", "7")
    with servers(tmp_path, kind):
        before = contents(PRIMARY)
        dnsservers.key_file(tmp_path, name="nobody")
        refused(own, "does not know TSIG key nobody")
        dnsservers.key_file(tmp_path, secret=other)
        refused(own, "another secret or algorithm")
        dnsservers.key_file(tmp_path, name="reader", secret=dnsservers.READER_SECRET)
        refusal = {
            "knot": "or not for this zone",
            "bind": "refused the update.*REFUSED.*Nothing was",
        }
        refused(own, refusal[kind])
        assert contents(PRIMARY) == before


@both
def test_zone_that_does_not_exist_is_told(own, tmp_path, kind):
    with servers(tmp_path, kind):
        own.relay["mail_domain"] = "chat.example.com"
        refused(own, "serves no zone that holds chat.example.com.*create the zone")
        own.relay["mail_domain"], own.relay["dns"]["zone"] = DOMAIN, "other.example.org"
        refused(own, "does it serve zone|cannot be in zone")


@both
def test_primary_without_its_zone_is_told(own, tmp_path, kind):
    """A zone that does not load makes both answer SERVFAIL."""
    broken = {"example.org.": dnsservers.ZONE + "chat A nonsense\n", "example.info.": GOOD_ZONE}
    with dnsservers.SERVERS[kind](tmp_path / kind, PRIMARY, dict(reversed(broken.items()))):
        own.relay["dns"]["zone"] = "example.org"
        refused(own, "SERVFAIL")
        own.relay["dns"]["zone"] = None
        refused(own, "SERVFAIL")


GOOD_ZONE = f"@ 60 SOA ns hostmaster 1 3600 600 86400 1\n@ 60 NS ns\nns 60 A {PRIMARY}\n"


def test_server_that_is_down_is_told(own, tmp_path):
    own.relay["dns"]["server"] = f"{dnsservers.NOBODY}:53"
    refused(own, f"{dnsservers.NOBODY}:53 does not answer")


@both
def test_zone_that_changes_meanwhile_is_left_alone(own, tmp_path, monkeypatch, kind):
    """Two runs at once, or an operator's edit: all of our changes are refused together."""
    with servers(tmp_path, kind):
        plan = publishing.make_plan

        def edited_meanwhile(*arguments):
            planned = plan(*arguments)
            set_records(f"_dmarc.{DOMAIN}.", "TXT", '"v=DMARC1;p=none"')
            return planned

        monkeypatch.setattr(publishing, "make_plan", edited_meanwhile)
        with pytest.raises(CommandExecutionError, match="the zone changed while this ran"):
            own.dns.publish()
        monkeypatch.undo()
        ours = {(n, t) for n, t, _ in contents(PRIMARY) if n.endswith(f"{DOMAIN}.")}
        assert ours == {(f"{DOMAIN}.", "TXT"), (f"{DOMAIN}.", "CAA"), (f"_dmarc.{DOMAIN}.", "TXT")}
        own.dns.publish()
        assert bad_records(own) == {}


@both
def test_record_that_cannot_stand_beside_others_is_told(own, tmp_path, kind):
    """A CNAME cannot stand beside somebody's TXT record; servers ignore that part silently."""
    with servers(tmp_path, kind):
        set_records(f"www.{DOMAIN}.", "TXT", '"mine"')
        with pytest.raises(CommandExecutionError, match=f"did not change www.{DOMAIN}. CNAME"):
            own.dns.publish()
        assert f"www.{DOMAIN}. CNAME" in bad_records(own)


@both
def test_withdrawn_and_unused_records_are_removed(own, tmp_path, monkeypatch, kind):
    with servers(tmp_path, kind):
        own.dns.publish()
        own.relay["dns"]["addresses"] = ADDRESSES[:1]
        assert bad_records(own) == {f"{DOMAIN}. AAAA": [ADDRESSES[1]]}
        withdrawn = [f"old._domainkey.{DOMAIN}."]
        monkeypatch.setattr(comparison, "list_withdrawn", lambda _settings: withdrawn)
        set_records(f"old._domainkey.{DOMAIN}.", "TXT", '"v=DKIM1;p=AAAA"')
        changed = own.dns.publish()
        assert sorted((c["name"], c["type"], c["new"]) for c in changed) == [
            (f"{DOMAIN}.", "AAAA", []),
            (f"old._domainkey.{DOMAIN}.", "TXT", []),
        ]
        assert bad_records(own) == {}


# Aliases, delegation, several servers.


def test_alias_that_leads_here_is_right_and_stays(own, tmp_path):
    """Both www and mta-sts may lead here by an alias elsewhere, or by addresses of their own."""
    own.relay["dns"]["addresses"] = ADDRESSES[:1]
    with servers(tmp_path):
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


def test_key_record_behind_an_alias_is_right_as_long_as_it_is_ours(own, tmp_path):
    name = f"{own.selectors[0]}._domainkey.{DOMAIN}."
    chunks = " ".join(f'"{chunk}"' for chunk in own.dkim.txt(own.selectors[0])["chunks"])
    with servers(tmp_path):
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
    """Nothing can stand beside an alias, not even where it leads to the right addresses."""
    with servers(tmp_path, zone=dnsservers.ZONE):
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
    """A dead zone behind one alias must not hide what is true of the other records."""
    authoritative.QUESTION_TIMEOUT = 1
    with servers(tmp_path):
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
    """The resolver still knows the parent's servers only; they refer us to those of the domain."""
    own_zone = {f"{DOMAIN}.": GOOD_ZONE.replace(PRIMARY, SECONDARY)}
    delegated = f"chat 60 NS ns.chat\nns.chat 60 A {SECONDARY}\n"
    with (
        servers(tmp_path, zone=dnsservers.ZONE + delegated),
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
    """The primary stands in no NS record; its secondary is what the world asks."""
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
        servers(tmp_path, zone=both_zones),
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
    with servers(tmp_path, root=root):
        with pytest.raises(CommandExecutionError, match="do its name servers run"):
            own.dns.check()
        result = own.dns_state.verified("all of them", wait=0)
        assert result["result"] is False
        assert "do its name servers run" in result["comment"]


def test_silent_servers_of_a_part_are_named(own, tmp_path):
    delegated = f"_domainkey.chat 60 NS ns9\nns9 60 A {dnsservers.NOBODY}\n"
    with (
        servers(tmp_path, zone=dnsservers.ZONE + delegated),
        pytest.raises(
            CommandExecutionError, match=r"no authoritative .* ns9.example.org. does not"
        ),
    ):
        own.dns.check()


def test_resolver_that_is_down_is_told(own):
    with pytest.raises(CommandExecutionError, match="does the resolver of this machine work"):
        own.dns.check()


def test_report_shows_what_is_wrong_first_and_why(own, tmp_path):
    with servers(tmp_path):
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


# Other ways to publish.


def test_hook_gets_the_changes_and_its_refusal_is_told(own, tmp_path):
    own.relay["dns"] |= {"server": None, "hook": "my_dns.apply"}
    with servers(tmp_path):
        with pytest.raises(CommandExecutionError, match="there is no Salt function my_dns"):
            own.dns.publish()
        seen = []
        own.salt["my_dns.apply"] = seen.extend
        assert own.dns.publish() == seen
        assert seen[0] == {
            "zone": "example.org.",
            "name": f"{DOMAIN}.",
            "type": "A",
            "ttl": 3600,
            "old": [],
            "new": [ADDRESSES[0]],
        }
        spf = next(c for c in seen if c["name"] == f"{DOMAIN}." and c["type"] == "TXT")
        assert len(spf["old"]) == 1
        assert {*spf["old"], "v=spf1 a ~all"} == set(spf["new"])
        own.salt["my_dns.apply"] = lambda changes: False
        with pytest.raises(CommandExecutionError, match="answered False"):
            own.dns.publish()


class Provider(http.server.BaseHTTPRequestHandler):
    """What deSEC's API does with a bulk change."""

    seen = ()

    def do_PATCH(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Provider.seen = (self.path, self.headers["Authorization"], json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_hook_of_the_documentation_makes_one_request_of_all_changes(own, tmp_path):
    text = (own_modules.REPOSITORY / "docs" / "dns.md").read_text()
    hook = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], hook)  # ours, from the docs
    (tmp_path / "token").write_text("t0ken\n")
    server = http.server.HTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        hook |= {"API": f"http://127.0.0.1:{server.server_port}", "TOKEN": tmp_path / "token"}
        own.relay["dns"] |= {"server": None, "hook": "desec.apply"}
        own.salt["desec.apply"] = hook["apply"]
        with servers(tmp_path):
            changes = own.dns.publish()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    path, token, rrsets = Provider.seen
    assert (path, token, len(rrsets)) == ("/example.org/rrsets/", "Token t0ken", len(changes))
    for change, rrset in zip(changes, rrsets, strict=True):
        assert f"{rrset['subname']}.example.org." == change["name"]
        read = [dns.rdata.from_text("IN", rrset["type"], text) for text in rrset["records"]]
        wanted = [make_rdata(change["type"], value) for value in change["new"]]
        assert set(map(own_text, read)) == set(map(own_text, wanted))


def test_no_way_to_publish_is_an_error_with_the_next_step(own):
    own.relay["dns"]["server"] = None
    result = own.dns_state.published("records")
    assert result["result"] is False
    assert "chatmail_dns.zone" in result["comment"]


# Under Salt itself.

PILLAR = {
    "mail_domain": DOMAIN,
    "dns": {
        "addresses": ADDRESSES,
        "server": PRIMARY,
        "tsig_key_file": "/etc/chatmail/tsig.key",
    },
}
SLS = """
include: [chatmail.modules]
signing keys:
  chatmail_dkim.key_present: []
records of the relay:
  chatmail_dns.published:
    - require:
      - chatmail_dkim: signing keys
the world gets them:
  chatmail_dns.verified:
    - require:
      - chatmail_dns: records of the relay
"""


def applied(tmp_path, *arguments):
    done = own_modules.salt_call(
        tmp_path,
        "--out=json",
        "state.apply",
        "probe",
        *arguments,
        pillar=PILLAR,
        sls={"probe": SLS},
    )
    assert done.stdout, done.stderr
    states = json.loads(done.stdout)["local"]
    assert isinstance(states, dict), states
    return {state["__id__"]: state for state in states.values()}, done


@both
def test_one_state_apply_makes_keys_and_zone_complete(tmp_path, kind):
    own_modules.load(tmp_path, own_modules.settings(tmp_path))
    (tmp_path / "chatmail").mkdir()
    dnsservers.key_file(tmp_path / "chatmail")
    with servers(tmp_path, kind):
        _states, dry = applied(tmp_path, "test=True")
        assert not key_files.DIRECTORY.exists(), dry.stdout
        first, done = applied(tmp_path)
        assert done.returncode == 0, done.stdout
        assert len(first["records of the relay"]["changes"]) == 16
        assert first["the world gets them"]["result"] is True
        assert "PRIVATE" not in done.stdout
        assert dnsservers.SECRET not in done.stdout + done.stderr
        second, done = applied(tmp_path)
        assert done.returncode == 0
        assert {name for name, state in second.items() if state["changes"]} == set()


def cli_examples():
    """Return the commands in the docstrings of both modules; each function has one at least."""
    found = []
    for name in ("chatmail_dkim", "chatmail_dns"):
        text = (own_modules.REPOSITORY / "_modules" / f"{name}.py").read_text()
        commands = re.findall(rf"^ +(salt-call {name}\..*)$", text, re.MULTILINE)
        assert len(commands) >= text.count("CLI Example:") > 5
        found += commands
    return found


def test_each_cli_example_runs_as_written(tmp_path):
    """What makes keys, then what publishes them, then the rest: each then says that all is well."""
    own_modules.load(tmp_path, own_modules.settings(tmp_path))
    (tmp_path / "chatmail").mkdir()
    dnsservers.key_file(tmp_path / "chatmail")
    order = ("dkim.generate", "dkim.sign_with", "dns.publish")
    examples = sorted(cli_examples(), key=lambda each: not any(word in each for word in order))
    prepared = ["saltutil.sync_modules"], ["chatmail_dkim.generate", "r20261122"]
    with servers(tmp_path):
        for arguments in [*prepared, *(shlex.split(example)[1:] for example in examples)]:
            done = own_modules.salt_call(tmp_path, *arguments, pillar=PILLAR)
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
            assert done.stdout.startswith(("local:", "{")), f"{arguments}: {done.stdout}"
            assert "PRIVATE" not in done.stdout
            if "chatmail_dkim.probe" in arguments:
                assert done.stdout.count("verified") == 2, done.stdout
