"""Which signatures are taken. dkimpy, which shares no line with the code, makes some of them."""

import base64
import socket
import threading
import time

import dkim
import dkim.canonicalization
import dns.exception
import dns.message
import dns.resolver
import dns.rrset
import pytest
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import canonical, signing, verifying
from hypothesis import given
from hypothesis import strategies as st
from support import messages
from support.dkim_messages import (
    BODIES,
    DOMAIN,
    INVALID,
    NONE,
    TEMPORARY,
    by_dkimpy,
    check,
    own_signature,
    raw,
    signed,
)


@pytest.mark.parametrize("name", sorted({name.decode() for name in signing.OVERSIGNED}))
def test_check_signatures_with_added_field_refuses(keys, name):
    fields = [*signed(keys), (name.encode(), b" added")]
    assert check(fields, b"Hello\r\n", keys[1]) == INVALID
    assert not dkim.verify(raw(fields, b"Hello\r\n"), dnsfunc=lambda *_, **__: keys[1]["rsa"])


def test_check_signatures_takes_each_of_ours_alone(keys):
    fields = signed(keys)
    assert check(fields[1:], b"Hello\r\n", keys[1]) == ""
    assert check([fields[0], *fields[2:]], b"Hello\r\n", keys[1]) == ""


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("header", [b"simple", b"relaxed"])
@pytest.mark.parametrize("content", [b"simple", b"relaxed"])
def test_check_signatures_takes_what_dkimpy_signs(dkimpy_key, header, content, body):
    if content == b"relaxed" and (body in (b"\r\n\r\n\r\n", b"") or not body.endswith(b"\r\n")):
        body += b"end\r\n"  # see above: dkimpy's relaxed form errs at the end of these
    fields = by_dkimpy(dkimpy_key, body, (header, content))
    assert check(fields, body, {"other": dkimpy_key[1]}) == ""
    assert check(fields, b"x" + body, {"other": dkimpy_key[1]}) == INVALID


def test_check_signatures_by_others_names_and_orders(dkimpy_key):
    fields = by_dkimpy(dkimpy_key)
    records = {"other": dkimpy_key[1]}
    assert check(messages.fields(), b"Hello\r\n", records) == NONE
    assert check(fields, b"Hello\r\n", records, "CHAT.example.org") == ""
    for domain in ("example.org", "a.chat.example.org", "chat.example.net"):
        assert check(fields, b"Hello\r\n", records, domain) == INVALID
    broken = [(b"DKIM-Signature", value) for value in (b"", b" v=1; a=b", b" v=1;; d=", b"=;=")]
    assert check(broken + fields, b"Hello\r\n", records) == ""
    foreign = by_dkimpy(dkimpy_key, domain="example.net")[:1]
    assert check(foreign * 20 + fields, b"Hello\r\n", records) == ""
    assert check(foreign, b"Hello\r\n", records) == INVALID


def test_check_signatures_looks_at_few_of_many(dkimpy_key):
    asked = []

    def lookup(name, seconds):
        asked.append(name)
        return [b"v=DKIM1; p="]

    fields = by_dkimpy(dkimpy_key)
    with pytest.raises(Refusal):
        verifying.check_signatures(fields[:1] * 100 + fields, b"Hello\r\n", DOMAIN, lookup)
    assert len(asked) == verifying.MAX_SIGNATURES


def test_check_signatures_without_answer_of_dns_is_temporary(keys):
    fields = signed(keys)
    assert check(fields, b"Hello\r\n", {}) == TEMPORARY
    assert check(fields, b"Hello\r\n", {"rsa": [], "ed": None}) == TEMPORARY
    assert check(fields, b"Hello\r\n", {"rsa": [], "ed": []}) == INVALID
    assert check(fields, b"Hello\r\n", {"rsa": None, "ed": keys[1]["ed"]}) == ""
    # A changed body needs no key to be refused.
    assert check(fields, b"Bye\r\n", {}) == INVALID


def test_check_signatures_stops_asking_when_the_time_is_over(keys, monkeypatch):
    monkeypatch.setattr(verifying, "DNS_SECONDS", 0.0)
    assert check(signed(keys), b"Hello\r\n", keys[1]) == TEMPORARY


def test_check_signatures_takes_several_records_of_one_name(keys):
    rsa_only = [b"some=other text", b"v=DKIM1; p=", keys[1]["rsa"].encode()]
    assert check(signed(keys), b"Hello\r\n", {"rsa": rsa_only, "ed": []}) == ""


NOW = int(time.time())
# Tags of a signature, and whether it is to be taken with them.
TAGS = {
    "nothing changed": ({}, True),
    "an expiry to come": ({"x": str(NOW + 1000)}, True),
    "expired": ({"x": str(NOW - 10)}, False),
    "a huge expiry": ({"x": "9" * 5000}, False),
    "made now": ({"t": str(NOW)}, True),
    "made in the future": ({"t": str(NOW + 100_000)}, False),
    "the whole length": ({"l": "7"}, True),
    "a shorter length": ({"l": "5"}, False),
    "no length at all": ({"l": "0"}, False),
    "a longer length": ({"l": "9"}, False),
    "a length that is none": ({"l": "x"}, False),
    "an identity": ({"i": f"alice@{DOMAIN}"}, True),
    "an identity of a subdomain": ({"i": f"@mail.{DOMAIN}"}, True),
    "an identity elsewhere": ({"i": "@example.net"}, False),
    "an identity that ends alike": ({"i": f"@evil{DOMAIN}"}, False),
    "From not signed": ({"h": "to:subject"}, False),
    "no From in h": ({"h": "x-from:to"}, False),
    "too many names": ({"h": "from:" + ":".join(["a"] * 300)}, False),
    "h with spaces and capitals": ({"h": "From : To"}, True),
    "another version": ({"v": "2"}, False),
    "no version": ({"v": None}, False),
    "another query": ({"q": "http"}, False),
    "DNS": ({"q": "dns/txt"}, True),
    "rsa-sha1": ({"a": "rsa-sha1"}, False),
    "another algorithm": ({"a": "ed25519-sha256"}, False),
    "unknown canonicalization": ({"c": "nofws"}, False),
    "another body hash": ({"bh": base64.b64encode(bytes(32)).decode()}, False),
    "a body hash that is none": ({"bh": "x"}, False),
    "no body hash": ({"bh": None}, False),
    "no selector": ({"s": None}, False),
    "a selector that is no DNS name": ({"s": "a..b"}, False),
    "an endless selector": ({"s": "a" * 64}, False),
    "8 KB of nothing": ({"z": "x" * 8192}, False),
}


@pytest.mark.parametrize(("changes", "taken"), TAGS.values(), ids=TAGS)
def test_check_signatures_reads_tags(keys, changes, taken):
    [key, _] = signing.load_keys(keys[0])
    signer = key._replace(algorithm="rsa-sha256")
    fields = own_signature(signer, changes)
    assert check(fields, b"Hello\r\n", keys[1]) == ("" if taken else INVALID)


def test_check_signatures_of_changed_message_refuses(keys):
    fields = signed(keys)
    changed = [(n, b" <eve@chat.example.org>" if n == b"From" else v) for n, v in fields]
    assert check(changed, b"Hello\r\n", keys[1]) == INVALID
    assert check(fields, b"Hello!\r\n", keys[1]) == INVALID
    assert check(fields, b"Hello\r\n", keys[1]) == ""


@pytest.mark.parametrize("space", [b" ", b"\t", b"\r\n\t", b"\r\n "])
def test_parse_signature_of_hostile_white_space_is_quick(space):
    """The regular expressions of dkimpy take quadratic time on these."""
    for value in (b" v=1; b=" + space * 3000 + b"!", b" v=1; b=" + (b"a" + space) * 2000 + b"!"):
        started = time.process_time()
        with pytest.raises(verifying.Invalid):
            verifying.parse_signature((b"DKIM-Signature", value))
        canonical.signed_bytes([], [b"from"], (b"DKIM-Signature", value), True)
        assert time.process_time() - started < 1


@given(st.binary(max_size=200) | st.lists(st.sampled_from(
    [b"v=1", b"a=rsa-sha256", b"b=", b"bh=", b"d=chat.example.org", b"h=from", b"s=x", b"l=", b"x=",
     b"t=", b"i=@", b"c=", b";", b"=", b" ", b"\xff", b"AAAA", b"1_0", b"-1", b"_"]
)).map(b"".join))  # fmt: skip
def test_check_signatures_raises_nothing_but_refusals(value):
    assert check([(b"DKIM-Signature", value)], b"", {"x": value[:100].decode("latin-1")}) == INVALID


def test_resolver_lookup_tells_no_record_from_no_answer(monkeypatch):
    """A SERVFAIL is no word that there is no key."""
    lookup = verifying.resolver_lookup()

    def fail(error):
        def resolve(*_, **options):
            assert options["lifetime"] == 3.0
            raise error

        monkeypatch.setattr(dns.resolver.Resolver, "resolve", resolve)
        return lookup("x._domainkey.example.org.", 3.0)

    assert fail(dns.resolver.NXDOMAIN()) == []
    failures = dns.resolver.NoNameservers(), dns.resolver.LifetimeTimeout(), dns.exception.Timeout()
    for failure in failures:
        with pytest.raises(verifying.LookupFailed):
            fail(failure)


def test_key_record_is_kept_as_long_as_it_says(monkeypatch):
    """Each message of a relay asks for the same record. The test's server says 60 s."""
    asked = []

    def answer():
        for _ in range(2):
            data, address = server.recvfrom(4096)
            query = dns.message.from_wire(data)
            asked.append(query.question[0].name.to_text())
            made = dns.message.make_response(query)
            text = f'"key {len(asked)}"'
            made.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "TXT", text))
            server.sendto(made.to_wire(), address)

    def configure(resolver, _path):
        resolver.nameservers, resolver.port = ["127.0.0.1"], server.getsockname()[1]

    monkeypatch.setattr(dns.resolver.Resolver, "read_resolv_conf", configure)
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        answering = threading.Thread(target=answer, daemon=True)
        answering.start()
        lookup = verifying.resolver_lookup()
        assert [lookup("x.example.", 3.0) for _ in range(3)] == [[b"key 1"]] * 3
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 61)
        assert lookup("x.example.", 3.0) == [b"key 2"]
        answering.join(20)
    assert asked == ["x.example."] * 2
