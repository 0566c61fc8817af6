"""Who may read a private key, and what is said of files that hold none."""

import grp
import os
import stat

import pytest
from chatmaild.common.errors import InvalidRequest, OperatorError
from chatmaild.dkim import key_files, signing_state
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from support import relay_keys

# A group that each Debian has, and that is not root's.
GROUP = grp.getgrgid(1)


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A directory of keys that nobody has made yet, nor the one above it."""
    relay_keys.keep_in(tmp_path / "etc" / "dkim", monkeypatch)
    monkeypatch.setattr(key_files, "GROUP", GROUP.gr_name)
    return tmp_path / "etc" / "dkim"


def access(path):
    """Return the mode, the owner and the group of a file."""
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


def pem(key, encryption=None):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    )


def test_keys_and_their_directory_are_for_root_and_the_filter(directory):
    key_files.generate("spring", "ed25519-sha256")
    signing_state.sign_with(["spring"])
    assert access(directory) == (0o750, 0, GROUP.gr_gid)
    for name in ("spring.pem", "signing.json"):
        assert access(directory / name) == (0o640, 0, GROUP.gr_gid)
    permissions = signing_state.list_keys()["spring"]["permissions"]
    assert permissions == f"0640 root:{GROUP.gr_name}"


def test_directory_that_exists_keeps_its_permissions(directory):
    """A converge has made it, and says whose it is."""
    directory.mkdir(parents=True)
    os.chmod(directory, 0o700)
    key_files.generate("spring", "ed25519-sha256")
    assert access(directory) == (0o700, 0, os.getgid())


def test_protected_key_is_for_root_and_the_filter_whoever_had_it(directory):
    key_files.generate("spring", "ed25519-sha256")
    path = directory / "spring.pem"
    os.chown(path, 54321, 54321)
    os.chmod(path, 0o604)
    assert signing_state.list_keys()["spring"]["permissions"] == "0604 54321:54321"
    assert key_files.protect("spring") == f"0640 root:{GROUP.gr_name}"
    assert access(path) == (0o640, 0, GROUP.gr_gid)


def test_protecting_a_key_that_is_missing_says_so(directory):
    with pytest.raises(OperatorError, match=r"autumn\.pem is missing: there is no such key"):
        key_files.protect("autumn")
    with pytest.raises(InvalidRequest, match="no selector"):
        key_files.protect("../autumn")


def test_group_that_is_missing_is_named_with_the_state_that_makes_it(directory, monkeypatch):
    monkeypatch.setattr(key_files, "GROUP", "chatmail-nobody")
    with pytest.raises(OperatorError, match=r"chatmail-nobody does not exist.*chatmail\.host"):
        key_files.generate("spring", "ed25519-sha256")
    assert not directory.exists()


def test_new_key_is_on_the_disk_before_anybody_is_told(directory, monkeypatch):
    """After a power failure, DNS must not have the record of a key that is lost."""
    synced, fsync = [], os.fsync

    def note(descriptor):
        synced.append(os.stat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    key_files.generate("spring", "ed25519-sha256")
    assert {(directory / "spring.pem").stat().st_ino, directory.stat().st_ino} <= set(synced)


def test_key_that_dkim_does_not_know_is_named(directory):
    directory.mkdir(parents=True)
    (directory / "curve.pem").write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(OperatorError, match=r"curve\.pem .* expected RSA or Ed25519"):
        signing_state.list_keys()


@pytest.mark.parametrize("what", ["encrypted", "a directory"])
def test_file_that_is_no_readable_key_is_named(directory, what):
    (directory / "spring.pem").mkdir(parents=True)
    if what == "encrypted":
        (directory / "spring.pem").rmdir()
        encryption = serialization.BestAvailableEncryption(b"secret")
        key = pem(ed25519.Ed25519PrivateKey.generate(), encryption)
        (directory / "spring.pem").write_bytes(key)
    with pytest.raises(OperatorError, match=r"spring\.pem holds no unencrypted private key"):
        key_files.load_key("spring")


def test_selector_of_a_day_is_one_that_no_key_has(directory):
    first = key_files.choose_selector("ed25519-sha256")
    assert first == key_files.generate(algorithm="ed25519-sha256")["selector"]
    for number in range(2, 5):
        name = key_files.choose_selector("ed25519-sha256")
        assert name == f"{first}-{number}"
        key_files.generate(name, "ed25519-sha256")


@pytest.mark.parametrize("selector", ["a", "a" * 63, "0-9", "r20261122-2"])
def test_selector_of_one_label_names_a_file(directory, selector):
    assert key_files.key_path(selector) == directory / f"{selector}.pem"
