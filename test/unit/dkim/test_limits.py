"""Signatures and keys at the limits, to one octet and one second."""

import base64
import os

import pytest
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import signing, verifying
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from support.dkim_messages import DOMAIN, INVALID, check, own_signature, signed


def parsed(monkeypatch, field=None, **changes):
    """Parse a well-formed signature field with some tags changed, or another, at a fixed time."""
    monkeypatch.setattr(verifying.time, "time", lambda: 1_000_000_000.0)
    tags = {"v": "1", "a": "rsa-sha256", "d": DOMAIN, "s": "x", "h": "from", "bh": "AA", "b": "AA"}
    text = ";".join(f"{name}={value}" for name, value in (tags | changes).items())
    return verifying.parse_signature((b"DKIM-Signature", field or text.encode()))


# 253 octets with "._domainkey." and the domain.
LONGEST_SELECTOR = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 33])


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"x": "1000000000"}, {"x": "999999999"}),
        ({"t": "1000003600"}, {"t": "1000003601"}),
        ({"s": LONGEST_SELECTOR}, {"s": LONGEST_SELECTOR + "d"}),
        ({"s": "a" * 63}, {"s": "a" * 64}),
        ({"h": ":".join(["from"] * 200)}, {"h": ":".join(["from"] * 201)}),
        ({"i": f"@x.{DOMAIN}"}, {"i": f"@x{DOMAIN}"}),
        ({"q": "dns/txt"}, {"q": "dns"}),
        ({"c": "simple"}, {"c": "simpler"}),
    ],
)
def test_signature_field_at_its_limits(monkeypatch, good, bad):
    assert len(f"{LONGEST_SELECTOR}._domainkey.{DOMAIN}") == verifying.MAX_DNS_NAME == 253
    parsed(monkeypatch, **good)
    with pytest.raises(verifying.Invalid):
        parsed(monkeypatch, **bad)


def test_signature_field_of_8192_octets_is_the_longest(monkeypatch):
    tags = f"v=1;a=rsa-sha256;d={DOMAIN};s=x;h=from;bh=AA;b=AA;z=".encode()
    padding = b"x" * (8192 - len(tags))
    assert parsed(monkeypatch, field=tags + padding).domain == DOMAIN
    with pytest.raises(verifying.Invalid):
        parsed(monkeypatch, field=tags + padding + b"x")


@pytest.mark.parametrize(
    ("form", "header", "body"),
    [
        (None, False, False),
        ("simple", False, False),
        ("relaxed", True, False),
        ("simple/relaxed", False, True),
        ("relaxed/simple", True, False),
        ("relaxed/relaxed", True, True),
    ],
)
def test_signature_without_a_form_of_the_body_has_a_simple_one(monkeypatch, form, header, body):
    """RFC 6376 section 3.5, c=."""
    signature = parsed(monkeypatch, **({"c": form} if form else {}))
    assert (signature.relaxed_header, signature.relaxed_body) == (header, body)


@pytest.mark.parametrize(
    ("bits", "good"), [(1016, False), (1024, True), (8192, True), (8200, False)]
)
def test_rsa_key_has_1024_to_8192_bits(monkeypatch, bits, good):
    modulus = int.from_bytes(b"\xff" + os.urandom(bits // 8 - 2) + b"\x01", "big")
    public = rsa.RSAPublicNumbers(65537, modulus).public_key()
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    record_text = b"p=" + base64.b64encode(der)
    signature = parsed(monkeypatch)
    if good:
        assert verifying.parse_key(record_text, signature).key_size == bits
    else:
        with pytest.raises(verifying.Invalid, match="too short or too long"):
            verifying.parse_key(record_text, signature)


def test_third_record_of_a_name_is_the_last_that_is_tried(keys):
    good, other = keys[1]["rsa"].encode(), b"v=DKIM1; p="
    fields = signed(keys)
    assert check(fields, b"Hello\r\n", {"rsa": [other, other, good], "ed": []}) == ""
    assert check(fields, b"Hello\r\n", {"rsa": [other, other, other, good], "ed": []}) == INVALID


def test_fifth_signature_of_a_domain_is_the_last_that_is_tried(keys):
    bad = own_signature(signing.load_keys(keys[0])[0], {"s": "other"})[:1]
    fields = signed(keys)
    records = keys[1] | {"other": []}
    assert check(bad * 4 + fields, b"Hello\r\n", records) == ""
    assert check(bad * 5 + fields, b"Hello\r\n", records) == INVALID


def test_time_for_dns_is_that_of_all_look_ups_together(keys, monkeypatch):
    """Each is told how much of the 20 s is left."""
    clock, told = [1000.0], []
    monkeypatch.setattr(verifying.time, "monotonic", lambda: clock[0])

    def lookup(name, seconds):
        told.append(seconds)
        clock[0] += 15
        return []

    with pytest.raises(Refusal) as refused:
        verifying.check_signatures(signed(keys), b"Hello\r\n", DOMAIN, lookup)
    assert told == [20.0, 5.0]
    assert refused.value.code == "554"
    third = own_signature(signing.load_keys(keys[0])[0], {"s": "other"})[:1]
    with pytest.raises(Refusal) as refused:
        verifying.check_signatures(third + signed(keys), b"Hello\r\n", DOMAIN, lookup)
    assert told[2:] == [20.0, 5.0]
    # What was not asked may be there.
    assert refused.value.code == "451"
