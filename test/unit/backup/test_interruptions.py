"""A restore that stops anywhere can be run again, and a relay with addresses is protected."""

import itertools
import os
from pathlib import Path

import pytest
from chatmaild.accounts import mailboxes
from chatmaild.backup import creating, machine, restoring
from chatmaild.common import atomic_files
from chatmaild.common.errors import OperatorError
from support.backup import DOMAIN, Machine, home_files

# The directory of the certificate in use has a random name.
VOLATILE = "etc/chatmail/tls/"
CHANGING = ("replace", "link", "rename", "unlink", "mkdir", "utime")


class PowerFailure(BaseException):
    """The machine stops. No handler of errors takes it for one of them."""


@pytest.fixture
def made(old, tmp_path):
    """An archive with mail."""
    for name in ("alice0000", "blocked00"):
        (old.mail / f"{name}@{DOMAIN}/cur").mkdir()
        (old.mail / f"{name}@{DOMAIN}/cur/1.host:2,S").write_bytes(b"hello")
    return creating.create(old.settings, path=str(tmp_path / "backup.age"), mail=True)


def restore(machine, made, key, **arguments):
    return restoring.restore(machine.settings, made["path"], str(key[0]), **arguments)


def lasting(machine):
    """Return the files of a machine without those of random names, such as drafts of a crash."""
    return {
        name: content
        for name, content in machine.files().items()
        if not name.startswith(VOLATILE) and f"/{atomic_files.DRAFT_PREFIX}" not in name
    }


def make_new(directory, key, monkeypatch):
    new = Machine(directory, key[1]).use(monkeypatch)
    new.write("etc/chatmail/dkim/r9.pem", "FRESH KEY")
    return new


def test_restore_that_stops_at_any_change_of_the_disk_goes_on(tmp_path, made, key, monkeypatch):
    whole = make_new(tmp_path / "whole", key, monkeypatch)
    restore(whole, made, key)
    for stop in itertools.count(1):
        new = make_new(tmp_path / f"stop{stop}", key, monkeypatch)
        with monkeypatch.context() as patch:
            left = itertools.count(stop, -1)
            for name in CHANGING:
                patch.setattr(os, name, stopping(getattr(os, name), left))
            try:
                restore(new, made, key)
                break
            except PowerFailure:
                pass
        if (new.root / "etc/chatmail/restoring").exists():
            stopped = (new.root / "etc/chatmail-nocreate").exists()
            # Only the last step of all allows new addresses.
            assert (
                stopped or lasting(new).keys() - {"etc/chatmail/restoring"} == lasting(whole).keys()
            )
            with pytest.raises(OperatorError, match="a restore is not finished"):
                creating.create(new.settings)
        result = restore(new, made, key)
        assert result["addresses"] + result["kept"] == 2
        assert lasting(new) == lasting(whole)
    assert stop > 50


def stopping(function, left):
    """Return the function, which raises PowerFailure when the countdown is over."""

    def call(*arguments, **keywords):
        if next(left) <= 0:
            raise PowerFailure
        return function(*arguments, **keywords)

    return call


def test_address_without_its_password_does_not_exist_yet(tmp_path, made, key, monkeypatch):
    """The password is the last file. What was before it is no address, and is filled up."""
    new = make_new(tmp_path / "new", key, monkeypatch)
    replace = atomic_files.replace

    def fail(path, *arguments, **keywords):
        if Path(path).name == "password":
            raise OSError(28, "No space left on device")
        return replace(path, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "replace", fail)
        with pytest.raises(OSError, match="No space left"):
            restore(new, made, key)
    assert list(mailboxes.list_addresses(new.settings)) == []
    assert (new.mail / f"alice0000@{DOMAIN}/cur/1.host:2,S").exists()
    assert restore(new, made, key)["addresses"] == 2


def test_other_archive_is_refused_while_a_restore_is_not_finished(
    tmp_path, old, made, key, monkeypatch
):
    other = creating.create(old.settings, path=str(tmp_path / "other.age"))
    new = make_new(tmp_path / "new", key, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(machine, "place", stopping(machine.place, itertools.repeat(0)))
        with pytest.raises(PowerFailure):
            restore(new, made, key)
    with pytest.raises(OperatorError, match=f"with the SHA-256 {made['sha256']}: finish that one"):
        restore(new, other, key)
    restore(new, made, key)


def test_relay_with_an_address_is_refused_with_nothing_changed(tmp_path, made, key, monkeypatch):
    new = make_new(tmp_path / "new", key, monkeypatch)
    new.add_address("bob000000")
    before = new.files()
    for test in (True, False):
        with pytest.raises(OperatorError, match=r"addresses already.*Nothing was changed"):
            restore(new, made, key, test=test)
    assert new.files() == before


def test_address_that_appears_during_the_check_is_protected(tmp_path, made, key, monkeypatch):
    """A client logs in between the check and the moment that stops new addresses."""
    new = make_new(tmp_path / "new", key, monkeypatch)
    check = restoring._check_machine

    def race(*arguments):
        result = check(*arguments)
        new.add_address("bob000000")
        return result

    monkeypatch.setattr(restoring, "_check_machine", race)
    with pytest.raises(OperatorError, match=r"addresses already.*Nothing was changed"):
        restore(new, made, key)
    assert list(mailboxes.list_addresses(new.settings)) == [f"bob000000@{DOMAIN}"]
    assert not (new.root / "etc/chatmail-nocreate").exists()
    assert not (new.root / "etc/chatmail/restoring").exists()


def test_merge_keeps_the_addresses_of_the_machine_as_they_are(tmp_path, made, key, monkeypatch):
    new = make_new(tmp_path / "new", key, monkeypatch)
    new.add_address("alice0000", password="another password", tokens=("fcm-other",))
    home = new.mail / f"alice0000@{DOMAIN}"
    before = home_files(home)
    result = restore(new, made, key, merge=True)
    assert (result["addresses"], result["kept"]) == (1, 1)
    assert home_files(home) == before
    assert (new.mail / f"blocked00@{DOMAIN}/cur/1.host:2,S").exists()


def test_dry_run_changes_nothing_and_says_what_would_come_back(tmp_path, made, key, monkeypatch):
    new = make_new(tmp_path / "new", key, monkeypatch)
    before = new.files()
    announced = restore(new, made, key, test=True)
    assert new.files() == before
    assert restore(new, made, key) == announced


def test_second_run_after_the_end_is_refused(tmp_path, made, key, monkeypatch):
    new = make_new(tmp_path / "new", key, monkeypatch)
    restore(new, made, key)
    before = new.files()
    with pytest.raises(OperatorError, match="addresses already"):
        restore(new, made, key)
    assert new.files() == before
