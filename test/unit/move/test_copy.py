"""The copy between two machines, with a real rsync. A script stands for SSH."""

import os
import stat

import pytest
from chatmaild.common import mail_off
from chatmaild.common.errors import OperatorError
from chatmaild.inventory import places
from chatmaild.move import receiving
from support.two_machines import copy


def test_copy_has_content_times_modes_and_links(machines):
    old, new = machines
    (old / "password").write_text("hash")
    (old / "password").chmod(0o640)
    os.utime(old / "password", ns=(0, 1_700_000_000_123_456_789))
    os.link(old / "password", old / "other")
    keys = old.parent / "keys"
    (keys / "current").symlink_to("pair-1")
    assert copy() == {"files": 1, "bytes": 4}
    found = (new / "password").stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert found.st_mtime_ns == 1_700_000_000_123_456_789
    assert (new / "other").stat().st_ino == found.st_ino
    assert os.readlink(new.parent / "keys" / "current") == "pair-1"


def test_second_copy_takes_only_what_differs_and_removes_what_is_gone(machines):
    old, new = machines
    nocreate, copied = old.parent / "nocreate", new.parent / "nocreate"
    nocreate.write_text("x")
    for name in ("one", "two"):
        (old / name).write_text(name)
    copy()
    assert copied.exists()
    nocreate.unlink()
    (old / "one").unlink()
    (old / "three").write_text("three")
    assert copy() == {"files": 1, "bytes": 5}
    assert sorted(path.name for path in new.iterdir()) == ["three", "two"]
    assert not copied.exists()


def test_accounts_for_other_certificates_stay(machines):
    _old, new = machines
    copy()
    other = new.parent / "accounts" / "of another certificate"
    other.mkdir()
    copy()
    assert other.exists()


def test_machine_that_serves_is_never_overwritten(machines):
    mail_off.MAIL_OFF.unlink()
    with pytest.raises(OperatorError, match="mail is on here"):
        copy()


def test_failure_says_its_cause(machines, monkeypatch, tmp_path):
    script = tmp_path / "ssh"
    script.write_text("#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n")
    with pytest.raises(OperatorError, match=r"from 192.0.2.6 failed .*Permission denied"):
        copy()


def test_closed_port_names_the_firewall(monkeypatch):
    monkeypatch.setattr(receiving, "PORT", 1)
    with pytest.raises(OperatorError, match=r"port 1 of the old machine .*firewall"):
        receiving._find_reachable(["127.0.0.1"])


def test_second_role_of_the_key_is_refused_like_the_first(machines, monkeypatch):
    monkeypatch.setattr(places, "list_paths", lambda _settings, _last: ["/etc/shadow"])
    with pytest.raises(OperatorError, match="and nothing else"):
        copy()
