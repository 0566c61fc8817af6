"""The form of our signatures, and keys that cannot be read again."""

import json
import os

import pytest
from chatmaild.dkim import canonical, signing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from support import running_filter
from support.dkim_messages import signed

# The contract's list. One more than the message has of each is signed.
NAMES = [
    "from", "subject", "date", "to", "cc", "reply-to", "in-reply-to", "references", "autocrypt",
    "content-type", "message-id", "list-id", "list-help", "list-unsubscribe",
    "list-unsubscribe-post", "list-subscribe", "list-post", "list-owner", "list-archive",
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ([], []),
        ([(b"FROM", b" a@b"), (b"List-Archive", b" x")], ["from", "list-archive"]),
        ([(b"To", b" a@b"), (b"To", b" c@d"), (b"X-Other", b" x")], ["to", "to"]),
    ],
)
def test_each_field_of_the_contract_is_signed_once_more_than_it_occurs(keys, fields, more):
    for _, value in signed(keys, fields)[:2]:
        tags = canonical.parse_tags(value)
        names = tags["h"].replace(b" ", b"").decode().split(":")
        expected = [name for name in NAMES for _ in range(1 + more.count(name))]
        assert names == expected


def test_signature_is_folded_into_lines_of_78_octets_at_most(keys):
    many = [(b"List-Unsubscribe-Post", b" x")] * 30
    for _, value in signed(keys, many)[:2]:
        first, *rest = value.split(b"\r\n")
        assert first.startswith(b" v=1;")
        assert len(b"DKIM-Signature:" + first) <= 78
        assert all(line.startswith(b"\t") for line in rest)
        assert max(map(len, rest)) <= 78
        # Few lines, too: neither a word a line, nor a line for each signed name.
        assert len(rest) < 25


@pytest.fixture
def ring(tmp_path):
    """Two keys that sign, and a ring that has read them."""
    for name in ("one", "two"):
        running_filter.write_key(tmp_path, name, "ed25519-sha256")
    running_filter.write_signing(tmp_path, {"one": "ed25519-sha256"})
    return signing.KeyRing(tmp_path)


def encrypted(directory):
    (directory / "two.pem").write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return {"selectors": [{"selector": "two", "algorithm": "ed25519-sha256"}]}


@pytest.mark.parametrize(
    "listed",
    [
        lambda _: {},
        lambda _: {"selectors": [{"selector": "two"}]},
        lambda _: [],
        lambda _: {"selectors": None},
        lambda _: {"selectors": []},
        lambda _: {"selectors": [{"selector": "three", "algorithm": "ed25519-sha256"}]},
        lambda _: {"selectors": [{"selector": "two", "algorithm": "rsa-sha256"}]},
        lambda _: {"selectors": [{"selector": "two", "algorithm": "rsa-sha1"}]},
        encrypted,
    ],
    ids=[
        "no list", "no algorithm", "no object", "nothing", "empty", "no such key", "other kind",
        "unknown kind", "encrypted",
    ],
)  # fmt: skip
def test_ring_signs_with_the_last_good_keys_until_the_files_are_right(tmp_path, ring, listed):
    (tmp_path / "signing.json").write_text(json.dumps(listed(tmp_path)))
    os.utime(tmp_path / "signing.json", (1, 1))
    assert [key.selector for key in ring.current()] == ["one"]
    running_filter.write_key(tmp_path, "two", "ed25519-sha256")
    running_filter.write_signing(tmp_path, {"two": "ed25519-sha256"})
    os.utime(tmp_path / "signing.json", (2, 2))
    assert [key.selector for key in ring.current()] == ["two"]


@pytest.mark.parametrize("seconds", [1, 2**33])
def test_ring_reads_files_that_are_older_or_newer(tmp_path, ring, seconds):
    running_filter.write_signing(tmp_path, {"two": "ed25519-sha256"})
    os.utime(tmp_path / "signing.json", (seconds, seconds))
    assert [key.selector for key in ring.current()] == ["two"]
