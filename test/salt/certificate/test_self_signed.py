"""The self-signed certificate, on real files."""

import datetime
import json
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from support.certificates import NAMES, belong_together, contents

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of root need root")


def test_absent_pair_is_made_and_second_run_changes_nothing(self_signed, pair):
    announced = self_signed(test=True)
    assert announced["result"] is None
    assert not Path(pair["name"]).exists()
    assert not Path(pair["key"]).exists()
    made = self_signed()
    assert made["result"] is True
    assert made["changes"] == announced["changes"]
    assert made["changes"]["key"] == {"old": None, "new": "EC P-256"}
    assert "PRIVATE" not in str(made)
    belong_together(pair)
    before = contents(pair)
    for test in (True, False):
        again = self_signed(test=test)
        assert (again["result"], again["changes"]) == (True, {})
    assert contents(pair) == before


def test_certificate_is_an_end_entity_for_servers_with_all_names(self_signed, pair):
    self_signed()
    made = x509.load_pem_x509_certificate(contents(pair)[0])
    extension = made.extensions.get_extension_for_class
    assert extension(x509.BasicConstraints).value.ca is False
    assert list(extension(x509.ExtendedKeyUsage).value) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]
    names = extension(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == NAMES
    assert made.public_key().curve.name == "secp256r1"
    assert made.subject.rfc4514_string() == "CN=_chat.example.org"
    assert Path(pair["key"]).stat().st_mode & 0o7777 == 0o640


def test_ip_relay_has_an_ip_address_as_name(self_signed, pair, salt_modules):
    self_signed(names=["13.12.23.42"])
    made = x509.load_pem_x509_certificate(contents(pair)[0])
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["13.12.23.42"]
    shown = salt_modules["chatmail_relay.certificate"](pair["name"])
    assert shown["names"] == ["13.12.23.42"]
    assert shown["self_signed"] is True
    assert shown["days_left"] in (3649, 3650)


def test_domain_longer_than_a_common_name_gets_a_certificate(self_signed, pair):
    """A common name has at most 64 characters. Once, a longer domain made the state fail."""
    name = f"_{'a' * 60}.example.org"
    assert self_signed(names=[name])["result"] is True
    belong_together(pair)


def test_other_names_renew_the_certificate_for_the_same_key(self_signed, pair):
    self_signed()
    key = contents(pair)[1]
    announced = self_signed(test=True, names=["_new.example.org"])
    changed = self_signed(names=["_new.example.org"])
    assert announced["changes"] == changed["changes"]
    assert set(changed["changes"]) == {"certificate"}
    assert changed["changes"]["certificate"]["old"]["names"] == sorted(NAMES)
    assert changed["changes"]["certificate"]["new"]["names"] == ["_new.example.org"]
    assert contents(pair)[1] == key
    belong_together(pair)


def test_certificate_near_its_end_is_renewed_and_one_day_before_not(self_signed):
    self_signed(days=31)
    assert self_signed(days_remaining=30)["changes"] == {}
    renewed = self_signed(days_remaining=31)
    assert renewed["result"] is True
    end = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=3650)
    assert renewed["changes"]["certificate"]["new"]["not_after"] == end.isoformat()
    assert "expires in 30 days" in renewed["comment"]


@pytest.mark.parametrize("broken", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("which", ["name", "key"])
def test_broken_file_is_repaired(self_signed, pair, which, broken):
    self_signed()
    Path(pair[which]).write_bytes(broken)
    repaired = self_signed()
    assert repaired["result"] is True
    assert "certificate" in repaired["changes"]
    belong_together(pair)


def test_wrong_permissions_of_the_key_are_corrected(self_signed, pair):
    self_signed()
    os.chmod(pair["key"], 0o644)
    changed = self_signed()["changes"]
    assert changed == {"key access": {"old": "root:root 0644", "new": "root:root 0640"}}
    assert stat.S_IMODE(os.stat(pair["key"]).st_mode) == 0o640


def test_crash_after_each_step_leaves_a_pair_that_belongs_together(self_signed, pair, monkeypatch):
    """The state renames only the certificate. Before and after that rename the pair works."""
    self_signed()
    real = os.replace

    def crash_before(*_):
        raise OSError("power failure")

    def crash_after(*arguments):
        real(*arguments)
        raise OSError("power failure")

    for crash in (crash_before, crash_after):
        monkeypatch.setattr(os, "replace", crash)
        cut_off = self_signed(names=["_new.example.org"])
        assert cut_off["result"] is False
        assert "power failure" in cut_off["comment"]
        belong_together(pair)
    assert sorted(os.listdir(Path(pair["name"]).parent)).count("fullchain.pem") == 1
    assert not [each for each in os.listdir(Path(pair["name"]).parent) if each[0] == "."]


def test_placeholder_leaves_the_certificate_of_a_ca_alone(self_signed, pair):
    """A converge must not replace a certificate that a deploy hook has put in place."""
    self_signed(names=["elsewhere.example.org"])
    issued = contents(pair)
    kept = self_signed(placeholder=True)
    assert (kept["result"], kept["changes"]) == (True, {})
    assert contents(pair) == issued
    Path(pair["key"]).unlink()
    assert self_signed(placeholder=True)["changes"]["key"] == {"old": None, "new": "EC P-256"}
    belong_together(pair)


def test_missing_directory_fails_with_its_name_and_dry_run_does_not(salt_states, tmp_path):
    arguments = {
        "name": str(tmp_path / "none/fullchain.pem"),
        "key": str(tmp_path / "none/privkey.pem"),
        "subject_names": NAMES,
    }
    assert salt_states("chatmail_certificate.self_signed", test=True, **arguments)["result"] is None
    failed = salt_states("chatmail_certificate.self_signed", **arguments)
    assert failed["result"] is False
    assert "none" in failed["comment"]


def test_key_of_a_certificate_that_a_ca_issued_is_kept(self_signed, pair):
    """An RSA key that already exists is as good as ours, so it stays with its certificate."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    Path(pair["key"]).write_bytes(pem)
    self_signed()
    assert contents(pair)[1] == pem
    belong_together(pair)


def test_certificate_is_made_by_a_state_as_it_is_written_in_an_sls(salt_call, pair):
    """The argument is `subject_names`: for `names`, Salt would run the state once for each name."""
    sls = {
        "include": ["chatmail.modules"],
        "self-signed certificate": {
            "chatmail_certificate.self_signed": [
                {"name": pair["name"]},
                {"key": pair["key"]},
                {"subject_names": NAMES},
            ]
        },
    }
    done = salt_call("state.apply", "probe", sls={"probe": json.dumps(sls)})
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = [each for each in done.returned.values() if each["changes"]]
    assert made["changes"]["certificate"]["new"]["names"] == sorted(NAMES)
    belong_together(pair)
