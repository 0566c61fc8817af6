"""What is signed, and with which keys; dkimpy, which shares no line with it, verifies it."""

import hashlib
import os

import dkim
import dkim.canonicalization
import pytest
from chatmaild.dkim import canonical, signing
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st
from support import messages, running_filter
from support.dkim_messages import BODIES, DOMAIN, raw, signed


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
