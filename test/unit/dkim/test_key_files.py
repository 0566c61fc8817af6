"""The key files, signing.json, and what both keys sign."""

import base64
import json
import os
import stat

import dkim
import pytest
from chatmaild.common.errors import InvalidRequest, OperatorError
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import key_files, key_records, signing, signing_state, verifying
from chatmaild.message import mime
from cryptography.hazmat.primitives import serialization
from support import relay_keys
from support.relay_keys import DOMAIN, sign_with_key

# What the records depend on.
SETTINGS = {"mail_domain": DOMAIN, "dkim_required": True, "dkim": {"retire_after": 14}}


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Where the keys of the test are."""
    relay_keys.keep_in(tmp_path / "dkim", monkeypatch)
    return tmp_path / "dkim"


@pytest.mark.parametrize(
    ("algorithm", "bits", "kind"),
    [
        ("rsa-sha256", 2048, "rsa"),
        ("rsa-sha256", 3072, "rsa"),
        ("rsa-sha256", 4096, "rsa"),
        ("ed25519-sha256", 256, "ed25519"),
    ],
)
def test_generated_key_is_private_and_its_record_is_its_public_half(
    directory, algorithm, bits, kind
):
    arguments = {"bits": bits} if kind == "rsa" else {}
    made = key_files.generate("spring", algorithm, **arguments)
    assert made == {
        "selector": "spring",
        "algorithm": algorithm,
        "path": str(directory / "spring.pem"),
    }
    assert stat.S_IMODE(os.stat(made["path"]).st_mode) == 0o640
    private = (directory / "spring.pem").read_bytes()
    assert private.startswith(b"-----BEGIN PRIVATE KEY-----\n")  # PKCS#8
    listed = signing_state.list_keys()["spring"]
    assert (listed["algorithm"], listed["bits"], listed["status"]) == (algorithm, bits, "unused")
    told = key_records.describe_record(SETTINGS, "spring")
    assert "".join(told["chunks"]) == told["value"]
    assert all(len(chunk) <= 255 for chunk in told["chunks"])
    tags = dict(part.split("=", 1) for part in told["value"].split(";"))
    assert (tags["v"], tags["k"]) == ("DKIM1", kind)
    key = serialization.load_pem_private_key(private, None).public_key()
    forms = {"rsa": ("DER", "SubjectPublicKeyInfo"), "ed25519": ("Raw", "Raw")}
    encoding, form = forms[kind]
    octets = key.public_bytes(
        getattr(serialization.Encoding, encoding), getattr(serialization.PublicFormat, form)
    )
    assert base64.b64decode(tags["p"]) == octets


def test_existing_key_is_never_overwritten(directory):
    key_files.generate("spring")
    before = (directory / "spring.pem").read_bytes()
    with pytest.raises(OperatorError, match="never overwritten"):
        key_files.generate("spring", "ed25519-sha256")
    assert (directory / "spring.pem").read_bytes() == before
    assert [path.name for path in directory.iterdir()] == ["spring.pem"]


def test_keys_of_one_day_get_different_selectors():
    first, second = (key_files.generate()["selector"] for _ in range(2))
    assert second == f"{first}-2"


@pytest.mark.parametrize("selector", ["", "../x", "a.b", "UPPER", "a b", "-a", "a" * 64, "ü"])
def test_strange_selector_never_becomes_a_path(directory, selector):
    with pytest.raises(InvalidRequest):
        key_records.describe_record(SETTINGS, selector)
    assert not directory.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"algorithm": "rsa-sha1"}, "rsa-sha256"), ({"bits": 1024}, "2048, 3072 or 4096")],
)
def test_impossible_key_is_refused_with_what_is_allowed(arguments, told):
    with pytest.raises(InvalidRequest, match=told):
        key_files.generate(**arguments)


def test_signing_configuration_has_the_form_that_the_filter_reads(directory):
    selectors = relay_keys.make()
    assert [key.selector for key in signing.load_keys(directory)] == selectors
    listed = json.loads((directory / "signing.json").read_text())["selectors"]
    assert [key["algorithm"] for key in listed] == ["rsa-sha256", "ed25519-sha256"]


def test_signing_configuration_of_somebody_else_is_read(directory):
    """It needs no more than the filter does; its own time then counts as the keys' age."""
    key_files.generate("opendkim")
    (directory / "a.b.pem").write_text("not ours")
    listed = {"selectors": [{"selector": "opendkim", "algorithm": "rsa-sha256"}]}
    (directory / "signing.json").write_text(json.dumps(listed))
    os.utime(directory / "signing.json", (86400, 86400))
    found = signing_state.list_keys()
    assert list(found) == ["opendkim"]
    assert found["opendkim"]["since"] == "1970-01-02T00:00:00+00:00"


def test_missing_and_broken_keys_are_told_apart(directory):
    rsa, _ed25519 = relay_keys.make()
    (directory / f"{rsa}.pem").unlink()
    with pytest.raises(OperatorError, match=f"{rsa}.pem is missing: restore"):
        key_records.list_records(SETTINGS)
    (directory / f"{rsa}.pem").write_text("nothing")
    with pytest.raises(OperatorError, match="no unencrypted private key"):
        signing_state.list_keys()
    (directory / "signing.json").write_text("{")
    with pytest.raises(OperatorError, match=r"signing.json cannot be read"):
        key_records.list_records(SETTINGS)


def test_dkimpy_verifies_what_both_keys_sign_with_the_records(directory):
    selectors = relay_keys.make()
    records = {record["name"]: record["value"] for record in key_records.list_records(SETTINGS)}

    def answer(name, timeout=5):
        return records[name.decode()].encode()

    for selector in selectors:
        message = sign_with_key(directory, selector)
        assert dkim.verify(message, dnsfunc=answer)
        assert not dkim.verify(message.replace(b"hello", b"hallo"), dnsfunc=answer)


def test_filter_accepts_what_both_keys_sign_with_the_records(directory):
    selectors = relay_keys.make()
    records = {r["name"]: [r["value"].encode()] for r in key_records.list_records(SETTINGS)}
    for selector in selectors:
        header, _, body = sign_with_key(directory, selector).partition(b"\r\n\r\n")
        fields = mime.parse_fields(header)
        verifying.check_signatures(fields, body, DOMAIN, lambda name, _: records.get(name, []))
        with pytest.raises(Refusal):
            verifying.check_signatures(fields, body, DOMAIN, lambda name, _: [])
