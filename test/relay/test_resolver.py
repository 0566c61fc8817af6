"""The relay's resolver: validation, caching, and its place in /etc/resolv.conf."""

import json
import uuid

import pytest

APPLY = "salt-call --local --out=json state.apply"
# This asks the resolver on the relay itself, and prints the code, the AD flag and the data.
ASK = """
import sys, dns.flags, dns.message, dns.query, dns.rcode
name, kind, *flags = sys.argv[1:]
query = dns.message.make_query(name, kind, want_dnssec=True)
if "cd" in flags:
    query.flags |= dns.flags.CD
answer = dns.query.udp(query, "127.0.0.1", timeout=10)
data = [str(rdata) for rrset in answer.answer if rrset.rdtype == query.question[0].rdtype
        for rdata in rrset]
print(dns.rcode.to_text(answer.rcode()), bool(answer.flags & dns.flags.AD), *data)
"""


def ask(relay, name, kind="A", *flags):
    return relay.run(["/usr/bin/python3", "-c", ASK, name, kind, *flags]).stdout.split()


def apply(relay, sls, **pillar):
    """Apply a state with further pillar; return {state id: changes}. No state may fail."""
    override = json.dumps({"chatmail": {"mail_domain": relay.domain, **pillar}})
    done = relay.run(f"{APPLY} {sls} pillar='{override}'", check=False)
    states = json.loads(done.stdout)["local"].values()
    assert [state["comment"] for state in states if state["result"] is False] == []
    return {state["__id__"]: state["changes"] for state in states if state["changes"]}


@pytest.fixture
def record(relay):
    """Return a function that puts a record of the test into a zone and returns its name."""
    names = []

    def add(zone, value="192.0.2.7"):
        names.append(f"resolver-test.{relay.name}.{zone}")
        relay.dns_set(names[-1], "A", value)
        return names[-1]

    yield add
    for name in names:
        relay.dns_del(name)


def test_signed_answer_is_validated(relay, record):
    assert ask(relay, record("signed.example")) == ["NOERROR", "True", "192.0.2.7"]


def test_unsigned_answer_passes_and_is_not_called_validated(relay, record):
    assert ask(relay, record("plain.example")) == ["NOERROR", "False", "192.0.2.7"]


def test_answer_with_a_wrong_signature_is_none(relay, record):
    """The trust anchor of the zone is a wrong key."""
    name = record("bogus.example")
    assert ask(relay, name)[0] == "SERVFAIL"
    assert ask(relay, name, "A", "cd") == ["NOERROR", "False", "192.0.2.7"]


@pytest.mark.parametrize("zone", ["signed.example", "plain.example"])
def test_new_record_is_seen_at_once_by_who_asked_before(relay, zone):
    """A cached negative answer would hide a new DKIM key or MX for an hour."""
    relay.needs_lab("its DNS")
    # Several names: unbound could cache one until the end of the second.
    for name in [f"{uuid.uuid4()}.{relay.name}.{zone}" for _ in range(5)]:
        assert ask(relay, name)[0] == "NXDOMAIN"
        relay.dns_set(name, "A", "192.0.2.8")
        try:
            assert ask(relay, name)[2:] == ["192.0.2.8"]
        finally:
            relay.dns_del(name)


def test_resolver_listens_on_loopback_alone(relay):
    shown = relay.run("ss -Hlntup sport = 53").stdout.splitlines()
    assert shown
    assert {line.split()[4] for line in shown} == {"127.0.0.1:53"}


def test_link_in_place_of_resolv_conf_is_replaced_and_postfix_learns_of_it(relay):
    """systemd-resolved and resolvconf leave a link. The file behind it belongs to them."""
    before = relay.run("cat /etc/resolv.conf").stdout
    relay.run(
        "echo 'nameserver 192.0.2.53' > /run/others.conf"
        " && ln -sf /run/others.conf /etc/resolv.conf"
        " && cp /run/others.conf /var/spool/postfix/etc/resolv.conf"
    )
    changed = apply(relay, "chatmail")
    assert relay.run("test -L /etc/resolv.conf", check=False).returncode == 1
    assert relay.run("cat /etc/resolv.conf").stdout == before
    assert "nameserver 127.0.0.1" in before
    assert relay.run("cat /run/others.conf").stdout == "nameserver 192.0.2.53\n"
    assert relay.run("cat /var/spool/postfix/etc/resolv.conf").stdout == before
    restarted = {f"chatmail-{name} service" for name in ("accounts", "filter", "transport")}
    assert set(changed) == restarted | {
        "chatmail resolv.conf names our resolver",
        "chatmail postfix runs with these addresses and this resolver",
    }


def test_ipv4_alone_is_a_setting(relay):
    """`disable_ipv6` for machines whose provider has IPv6 addresses and no route."""
    option = "unbound-control get_option do-ip6"
    assert relay.run(option).stdout == "yes\n"
    before = ask(relay, relay.domain)[2:]
    apply(relay, "chatmail.resolver", disable_ipv6=True)
    try:
        assert relay.run(option).stdout == "no\n"
        assert ask(relay, relay.domain)[2:] == ([relay.ip] if relay.in_lab else before)
    finally:
        apply(relay, "chatmail.resolver")
    assert relay.run(option).stdout == "yes\n"


def test_configuration_that_unbound_refuses_never_takes_its_place(relay):
    before = relay.run("cat /etc/unbound/unbound.conf").stdout
    # The settings accept a label of 64 letters. unbound-checkconf refuses it.
    bad = {"forwarders": [], "trust_anchors": [f"{'a' * 64}.example. IN DS 1 8 2 00"]}
    override = json.dumps({"chatmail": {"mail_domain": relay.domain, "resolver": bad}})
    refused = relay.run(f"{APPLY} chatmail.resolver pillar='{override}'", check=False)
    assert refused.returncode != 0
    assert "check_cmd" in refused.stdout
    assert relay.run("cat /etc/unbound/unbound.conf").stdout == before
    # It answers as before. The DNS need not know the domain of a machine elsewhere.
    assert ask(relay, relay.domain)[0] in ("NOERROR", *([] if relay.in_dns else ["NXDOMAIN"]))
