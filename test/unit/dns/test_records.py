"""The records that DNS should have for a relay, and the same records as text of a zone."""

import subprocess

import pytest
from chatmaild.common.errors import OperatorError
from chatmaild.dkim import key_files, signing
from chatmaild.dns import checking, rdata, records
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support import dnsservers
from support.generated import PUBLIC_ADDRESSES
from support.own_modules import ACCOUNT, ADDRESSES, DOMAIN

# The generated cases of a test share one fixture, and each sets all that it reads.
GENERATED = hypothesis_settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def values(settings):
    return {(r["name"], r["type"], r["value"]) for r in records.list_records(settings)}


def test_records_are_those_of_the_contract(settings):
    found = values(settings)
    rsa, ed25519 = [key.selector for key in signing.load_keys(key_files.DIRECTORY)]
    expected = {
        (f"{DOMAIN}.", "A", ADDRESSES[0]),
        (f"{DOMAIN}.", "AAAA", ADDRESSES[1]),
        (f"{DOMAIN}.", "MX", f"10 {DOMAIN}."),
        (f"mta-sts.{DOMAIN}.", "CNAME", f"{DOMAIN}."),
        (f"www.{DOMAIN}.", "CNAME", f"{DOMAIN}."),
        (f"_mta-sts.{DOMAIN}.", "TXT", f"v=STSv1; id={settings['mta_sts_id']}"),
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
    needed = {
        (r["name"], r["type"]) for r in records.list_records(settings) if r["need"] == "required"
    }
    assert needed == keys | {(name, kind) for name, kind, _ in list(expected) if kind in MUST} | {
        (f"_mta-sts.{DOMAIN}.", "TXT")
    }


MUST = {"A", "AAAA", "MX", "CNAME"}


def test_test_domain_has_no_mta_sts_and_no_caa(settings):
    settings |= {"mail_domain": "_chat.example.org", "form": "test", "tls_mode": "self_signed"}
    settings["mta_sts_id"] = None
    names = {(name, kind) for name, kind, _ in values(settings)}
    assert not {name for name, kind in names if "mta-sts" in name or kind == "CAA"}
    assert ("_chat.example.org.", "MX") in names
    assert ("www._chat.example.org.", "CNAME") in names


def test_relay_that_is_an_address_needs_no_dns(settings):
    settings |= {"mail_domain": "198.51.100.7", "form": "ip", "dkim_required": False}
    assert records.list_records(settings) == []
    assert rdata.make_zone(settings) == ""
    assert checking.check(settings)["result"] is True
    assert checking.report(settings) == "198.51.100.7 needs no DNS records."


def test_unknown_authority_gets_a_caa_record_only_with_the_setting_of_its_name(settings, tmp_path):
    settings["acme_directory"] = "https://ca.example/acme/dir"
    assert not [v for _, kind, v in values(settings) if kind == "CAA"]
    account = tmp_path / "accounts" / "ca.example" / "acme" / "dir" / "1"
    account.mkdir(parents=True)
    (account / "regr.json").write_text('{"uri": "https://ca.example/a/1"}')
    assert not [v for _, kind, v in values(settings) if kind == "CAA"]
    settings["dns"]["caa_issuer"] = "ca.example"
    expected = '0 issue "ca.example;accounturi=https://ca.example/a/1"'
    assert [v for _, kind, v in values(settings) if kind == "CAA"] == [expected]
    (account / "regr.json").write_text("{}")
    with pytest.raises(OperatorError, match="names no ACME account"):
        records.list_records(settings)


LABELS = st.sampled_from(["chat", "xn--bcher-kva", "xn--80ak6aa92e", "a-b", "x" * 62, "0"])


@GENERATED
@given(
    labels=st.lists(LABELS, min_size=1, max_size=3),
    test_domain=st.booleans(),
    addresses=PUBLIC_ADDRESSES,
    caa=st.booleans(),
)
def test_zone_text_is_accepted_by_bind_and_knot(
    settings, tmp_path, labels, test_domain, addresses, caa
):
    """The text is a zone of its own, or a part of another zone. Some names are international."""
    domain = ("_" if test_domain else "") + ".".join(labels) + ".example.org"
    form = "test" if test_domain else "domain"
    settings |= {"mail_domain": domain, "form": form, "tls_mode": "acme" if caa else "external"}
    settings["dns"]["addresses"] = addresses
    whole = rdata.make_zone(settings, "ns1.example.net, ns2.example.net.")
    accepted(tmp_path, domain, whole)
    accepted(tmp_path, "example.org", dnsservers.ZONE + rdata.make_zone(settings))


def accepted(tmp_path, origin, text):
    path = tmp_path / "zone"
    path.write_text(text)
    for argv in (
        ["named-checkzone", "-k", "ignore", origin, path],
        ["kzonecheck", "-o", origin, path],
    ):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{argv[0]}: {done.stdout}{done.stderr}\n{text}"
