"""DKIM, each way against dkimpy, which shares no line with what is tested."""

import base64
import hashlib
import os
import time

import dkim
import dkim.canonicalization
import dns.exception
import dns.resolver
import pytest
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import canonical, signing, verifying
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from support import messages, running_filter

DOMAIN = "chat.example.org"
NONE = "554 No DKIM signature found"
INVALID = "554 No valid DKIM signature found"
TEMPORARY = "451 DKIM key lookup failed, try again later"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two keys on disk and their DNS records by selector."""
    directory = tmp_path_factory.mktemp("keys")
    kinds = {"rsa": "rsa-sha256", "ed": "ed25519-sha256"}
    records = {
        name: running_filter.write_key(directory, name, kind) for name, kind in kinds.items()
    }
    running_filter.write_signing(directory, kinds)
    return directory, records


def raw(fields, body: bytes) -> bytes:
    return b"".join(b"%b:%b\r\n" % field for field in fields) + b"\r\n" + body


def signed(keys, fields=None, body=b"Hello\r\n"):
    """Return the fields of a message with our signatures on top."""
    fields = messages.fields() if fields is None else fields
    values = signing.signature_fields(fields, body, DOMAIN, signing.load_keys(keys[0]))
    return [*((b"DKIM-Signature", value) for value in values), *fields]


def check(fields, body, records, domain=DOMAIN) -> str:
    """Verify; returns the refusal, "" for none. A record that is None is a time-out."""

    def lookup(name, seconds):
        assert 0 < seconds <= verifying.DNS_SECONDS
        record = records.get(name.partition("._domainkey.")[0])
        if name in records or record is None:
            raise verifying.LookupFailed("time-out")
        return [record.encode()] if isinstance(record, str) else record

    try:
        verifying.check_signatures(fields, body, domain, lookup)
    except Refusal as refusal:
        return f"{refusal.code} {refusal.text}"
    return ""


BODIES = {
    "text": b"Hello\r\n",
    "empty": b"",
    "empty lines": b"\r\n\r\n\r\n",
    "no line end": b"Hello",
    "empty lines at the end": b"Hello\r\n\r\n\r\n",
    "white space everywhere": b" \t Hello \t  world\t\r\n \r\n\t\r\nend \t\r\n",
    "white space at the end": b"Hello\r\n \t \r\n   \r\n",
    "a line of spaces": b"Hello" + b" " * 5000 + b"world\r\n",
    "8-bit": bytes(range(256)).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n",
    "encrypted": messages.encrypted_body(),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("form", ["relaxed", "simple"])
def test_body_hash_is_that_of_dkimpy(body, form):
    theirs = getattr(dkim.canonicalization, form.title()).canonicalize_body(body)
    if form == "relaxed" and not body.strip(b" \t\r\n"):
        theirs = b""  # dkimpy keeps empty lines, section 3.4.4 (b) does not
    expected = hashlib.sha256(theirs).digest(), len(theirs)
    assert canonical.body_hash(bytearray(body), form == "relaxed") == expected


@given(st.lists(st.sampled_from([b" ", b"\t", b"\r\n", b"a", b" " * 9, b"\r\n" * 200])))
def test_body_hash_of_any_body_is_that_of_dkimpy(pieces):
    body = b"a" + b"".join(pieces)
    for form in (dkim.canonicalization.Relaxed, dkim.canonicalization.Simple):
        # dkimpy leaves white space at the very end when no CR LF follows.
        ended = body if body.endswith(b"\r\n") else body + b"\r\n"
        relaxed = form.name == b"relaxed"
        theirs = form.canonicalize_body(ended if relaxed else body)
        assert canonical.body_hash(body, relaxed)[0] == hashlib.sha256(theirs).digest()


@pytest.mark.parametrize("index", [0, 1], ids=["rsa", "ed25519"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_signature_fields_verify_with_dkimpy(keys, body, index):
    fields = signed(keys, [*messages.fields(), (b"List-Id", b" a \t\r\n\tb ")], body)
    verifier = dkim.DKIM(raw(fields, body))
    records = {f"{name}._domainkey.{DOMAIN}.": text for name, text in keys[1].items()}
    assert verifier.verify(index, dnsfunc=lambda name, timeout: records[name.decode()].encode())
    assert verifier.domain == DOMAIN.encode()


def test_signature_fields_oversign_what_the_contract_lists(keys):
    fields = signed(keys)
    for _, value in fields[:2]:
        tags = canonical.parse_tags(value)
        names = tags["h"].replace(b" ", b"").split(b":")
        assert tags["c"] == b"relaxed/relaxed"
        assert names.count(b"from") == names.count(b"subject") == 2
        assert names.count(b"autocrypt") == names.count(b"cc") == names.count(b"list-id") == 1
        assert all(len(line) <= 78 for line in value.split(b"\r\n"))


@pytest.mark.parametrize("name", sorted({name.decode() for name in signing.OVERSIGNED}))
def test_check_signatures_with_added_field_refuses(keys, name):
    fields = [*signed(keys), (name.encode(), b" added")]
    assert check(fields, b"Hello\r\n", keys[1]) == INVALID
    assert not dkim.verify(raw(fields, b"Hello\r\n"), dnsfunc=lambda *_, **__: keys[1]["rsa"])


def test_check_signatures_takes_each_of_ours_alone(keys):
    fields = signed(keys)
    assert check(fields[1:], b"Hello\r\n", keys[1]) == ""
    assert check([fields[0], *fields[2:]], b"Hello\r\n", keys[1]) == ""


@pytest.fixture(scope="module")
def dkimpy_key():
    """A private key as dkimpy takes it, and its record."""
    key = rsa.generate_private_key(65537, 2048)
    return private_pem(key), record(key)


def private_pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def record(key, form=serialization.PublicFormat.SubjectPublicKeyInfo) -> str:
    public = key.public_key().public_bytes(serialization.Encoding.DER, form)
    return f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"


def by_dkimpy(key, body=b"Hello\r\n", form=(b"relaxed", b"simple"), domain=DOMAIN, **options):
    """Return the fields of a message that dkimpy has signed."""
    fields = messages.fields()
    value = dkim.sign(
        raw(fields, body), b"other", domain.encode(), key[0], canonicalize=form, **options
    )
    return [(b"DKIM-Signature", value.partition(b":")[2].removesuffix(b"\r\n")), *fields]


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


def own_signature(key: signing.SigningKey, changes: dict[str, str | None], body=b"Hello\r\n"):
    """Return a message's fields with a signature that is valid but for its changed tags."""
    fields = messages.fields()
    digest, _ = canonical.body_hash(body, True)
    tags = {
        "v": "1", "a": key.algorithm, "c": "relaxed/relaxed", "d": DOMAIN, "s": key.selector,
        "h": "from:to:subject", "bh": base64.b64encode(digest).decode(),
    }  # fmt: skip
    tags = {name: value for name, value in (tags | changes).items() if value is not None}
    unsigned = ("".join(f" {name}={value};" for name, value in tags.items()) + " b=").encode()
    names = [name.strip().lower().encode() for name in tags.get("h", "").split(":")]
    data = canonical.signed_bytes(fields, names, (b"DKIM-Signature", unsigned), True)
    return [(b"DKIM-Signature", unsigned + base64.b64encode(key.sign(data))), *fields]


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


RSA = "v=DKIM1; k=rsa; p="


def test_check_signatures_reads_key_records(keys):
    material = keys[1]["rsa"].partition("p=")[2]
    fields = own_signature(signing.load_keys(keys[0])[0], {})
    for good in (
        f"p={material}",
        f"k=rsa;p={material};",
        f"v=DKIM1; k=rsa; h=sha1:sha256; s=*; t=y; n=note; p={material}",
        f"v=DKIM1; s=other:email; t=s; p={material[:50]} \n {material[50:]}",
    ):
        assert check(fields, b"Hello\r\n", {"rsa": good}) == "", good
    for bad in (
        "",
        "v=DKIM1",
        "v=DKIM1; p=",
        "v=DKIM1; p=!!!!",
        f"v=DKIM1; p={material[:-40]}",
        f"v=DKIM2; p={material}",
        f"v=DKIM1; k=ed25519; p={material}",
        f"v=DKIM1; h=sha1; p={material}",
        f"v=DKIM1; s=tlsrpt; p={material}",
        f"p={material}; p={material}",
        keys[1]["ed"],
        "v=spf1 a -all",
    ):
        assert check(fields, b"Hello\r\n", {"rsa": bad}) == INVALID, bad
    subdomain = own_signature(signing.load_keys(keys[0])[0], {"i": f"@a.{DOMAIN}"})
    assert check(subdomain, b"Hello\r\n", {"rsa": f"t=s; p={material}"}) == INVALID


def pasted(material: str) -> dict[str, str]:
    """Return key records as people paste them from a zone file."""
    first, second, third = material[:60], material[60:130], material[130:]
    return {
        "quotes and blanks in p=": f'v=DKIM1; k=rsa; p={first}" "{second}"\t"{third}',
        "all in quotes": f'"v=DKIM1; k=rsa; p={material}"',
        "all in quotes and in pieces": f'"v=DKIM1; k=rsa; " "p={first}" "{second}{third}"',
        "in parentheses": f'( "v=DKIM1; k=rsa; "\n\t"p={first}"\n\t"{second}{third}" )',
        "semicolons with backslashes": f"v=DKIM1\\; k=rsa\\; p={material}\\;",
        "quotes with backslashes": f'\\"v=DKIM1; k=rsa; p={first}\\" \\"{second}{third}\\"',
        "semicolons twice": f"v=DKIM1;; k=rsa; ;p={material};;",
        "a semicolon first": f"; v=DKIM1; p={material}",
        "p= in quotes": f'v=DKIM1; k=rsa; p="{material}"',
        "line ends as letters": f"v=DKIM1; k=rsa; p={first}\xa0{second}\\{third}".encode(),
        "no padding": f"v=DKIM1; k=rsa; p={material.rstrip('=')}",
    }


def test_check_signatures_reads_key_records_pasted_from_zone_files(keys):
    """OpenDKIM and dkimpy took them; all mail of such a domain was answered 554 here."""
    for name in ("rsa", "ed"):
        material = keys[1][name].partition("p=")[2]
        fields = own_signature(
            next(k for k in signing.load_keys(keys[0]) if k.selector == name), {}
        )
        for what, text in pasted(material).items():
            records = text if isinstance(text, bytes) else text.encode("latin-1")
            if name == "ed":
                records = records.replace(b"v=DKIM1", b"v=DKIM1;k=ed25519").replace(b"k=rsa", b"n=")
            assert check(fields, b"Hello\r\n", {name: [records]}) == "", what
        for bad in ('v=DKIM1; p=""', "v=DKIM1;; p=;;", f'v=DKIM1; p="{material}"; p={material}'):
            assert check(fields, b"Hello\r\n", {name: bad}) == INVALID, bad


def test_check_signatures_takes_a_bare_rsa_key(dkimpy_key):
    """RFC 6376 asks for RSAPublicKey, the world writes SubjectPublicKeyInfo; both are taken."""
    key = rsa.generate_private_key(65537, 1024)
    bare = record(key, serialization.PublicFormat.PKCS1)
    fields = by_dkimpy((private_pem(key), bare))
    assert check(fields, b"Hello\r\n", {"other": bare}) == ""


WEAK_BITS = 768


def test_check_signatures_with_weak_key_refuses(keys):
    """RFC 8301 section 3.2. Newer OpenSSL makes no such key any more, so a number stands for it."""
    modulus = int.from_bytes(b"\xff" + os.urandom(WEAK_BITS // 8 - 2) + b"\x01", "big")
    weak = rsa.RSAPublicNumbers(65537, modulus).public_key()
    public = weak.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    text = f"v=DKIM1; p={base64.b64encode(public).decode()}"
    signature = verifying.parse_signature(signed(keys)[0])
    with pytest.raises(verifying.Invalid, match="too short or too long"):
        verifying.parse_key(text.encode(), signature)


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


def test_key_ring_follows_signing_json(tmp_path, monkeypatch):
    errors = []
    monkeypatch.setattr(signing.log, "error", lambda *arguments: errors.append(arguments))
    kinds = {"one": "rsa-sha256", "two": "ed25519-sha256"}
    for name, kind in kinds.items():
        running_filter.write_key(tmp_path, name, kind)
    running_filter.write_signing(tmp_path, {"one": "rsa-sha256"})
    ring = signing.KeyRing(tmp_path)
    assert [key.selector for key in ring.current()] == ["one"]
    running_filter.write_signing(tmp_path, kinds)
    os.utime(tmp_path / "signing.json", (1, 1))
    assert [key.selector for key in ring.current()] == ["one", "two"]
    (tmp_path / "signing.json").write_text("{")
    assert [key.selector for key in ring.current()] == ["one", "two"]
    assert "previous ones" in errors[0][0]
    (tmp_path / "signing.json").unlink()
    assert [key.selector for key in ring.current()] == ["one", "two"]
    running_filter.write_signing(tmp_path, {"two": "ed25519-sha256"})
    assert [key.selector for key in ring.current()] == ["two"]


def test_load_keys_of_wrong_files_says_what_to_do(tmp_path):
    running_filter.write_key(tmp_path, "one", "rsa-sha256")
    running_filter.write_signing(tmp_path, {"one": "ed25519-sha256"})
    with pytest.raises(ValueError, match=r"one\.pem holds no key for ed25519-sha256"):
        signing.load_keys(tmp_path)
    running_filter.write_signing(tmp_path, {})
    with pytest.raises(ValueError, match="names no selector"):
        signing.load_keys(tmp_path)


def test_ed25519_signature_is_over_the_digest():
    """RFC 8463 section 3."""
    private = ed25519.Ed25519PrivateKey.generate()
    signature = signing.SigningKey("x", "ed25519-sha256", private).sign(b"data")
    private.public_key().verify(signature, hashlib.sha256(b"data").digest())


# At the limits, to one octet and one second.


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
