"""Real Knot and BIND take an update: all of its records or none."""

import os

import pytest
from chatmaild.dns import comparison, publishing
from salt.exceptions import CommandExecutionError
from support import dnsservers
from support.dnsservers import GOOD_ZONE, PRIMARY, both, contents, set_records, world
from support.own_modules import ADDRESSES, DOMAIN, bad_records

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="name servers on port 53 need root")


@both
def test_empty_zone_becomes_complete_and_foreign_records_stay(own, tmp_path, kind):
    with world(tmp_path, kind):
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
def test_broken_record_of_each_type_is_named_and_repaired(own, tmp_path, kind):
    names = {"RSA": own.selectors[0], "ED25519": own.selectors[1]}
    with world(tmp_path, kind):
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
        # The test also removed foreign TXT and CAA records of the domain, which we do not publish.
        # All other records are as before.
        assert {(n, t) for n, t, _ in after} == {(n, t) for n, t, _ in complete}
        assert complete - after <= kept


def expect_refusal(own, match):
    """Assert that `publish` and the state fail, with this text and without the secret."""
    with pytest.raises(CommandExecutionError, match=match) as raised:
        own.dns.publish()
    output = str(raised.value) + str(own.dns_state.published("records"))
    assert dnsservers.SECRET not in output
    assert own.dns_state.published("records")["result"] is False


@both
def test_each_kind_of_wrong_key_has_its_message_and_nothing_is_published(own, tmp_path, kind):
    other = dnsservers.SECRET.replace("9", "7")
    with world(tmp_path, kind):
        before = contents(PRIMARY)
        dnsservers.key_file(tmp_path, name="nobody")
        expect_refusal(own, "does not know TSIG key nobody")
        dnsservers.key_file(tmp_path, secret=other)
        expect_refusal(own, "another secret or algorithm")
        dnsservers.key_file(tmp_path, name="reader", secret=dnsservers.READER_SECRET)
        refusal = {
            "knot": "or not for this zone",
            "bind": "refused the update.*REFUSED.*Nothing was",
        }
        expect_refusal(own, refusal[kind])
        assert contents(PRIMARY) == before


@both
def test_zone_that_does_not_exist_is_an_error(own, tmp_path, kind):
    with world(tmp_path, kind):
        own.relay["mail_domain"] = "chat.example.com"
        expect_refusal(own, "serves no zone that holds chat.example.com.*create the zone")
        own.relay["mail_domain"], own.relay["dns"]["zone"] = DOMAIN, "other.example.org"
        expect_refusal(own, "does it serve zone|cannot be in zone")


@both
def test_primary_that_cannot_load_its_zone_is_an_error(own, tmp_path, kind):
    """Both programs then answer SERVFAIL."""
    broken = {"example.org.": dnsservers.ZONE + "chat A nonsense\n", "example.info.": GOOD_ZONE}
    with dnsservers.SERVERS[kind](tmp_path / kind, PRIMARY, dict(reversed(broken.items()))):
        own.relay["dns"]["zone"] = "example.org"
        expect_refusal(own, "SERVFAIL")
        own.relay["dns"]["zone"] = None
        expect_refusal(own, "SERVFAIL")


def test_server_that_is_down_is_an_error(own, tmp_path):
    own.relay["dns"]["server"] = f"{dnsservers.NOBODY}:53"
    expect_refusal(own, f"{dnsservers.NOBODY}:53 does not answer")


@both
def test_zone_that_changes_meanwhile_is_left_alone(own, tmp_path, monkeypatch, kind):
    """After a second run or an edit of the operator, the server refuses all of our changes."""
    with world(tmp_path, kind):
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
def test_alias_that_the_server_silently_ignores_is_an_error(own, tmp_path, kind):
    """A name with a TXT record of the operator can have no CNAME. Servers ignore that silently."""
    with world(tmp_path, kind):
        set_records(f"www.{DOMAIN}.", "TXT", '"mine"')
        with pytest.raises(CommandExecutionError, match=f"did not change www.{DOMAIN}. CNAME"):
            own.dns.publish()
        assert f"www.{DOMAIN}. CNAME" in bad_records(own)


@both
def test_withdrawn_and_unused_records_are_removed(own, tmp_path, monkeypatch, kind):
    with world(tmp_path, kind):
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
