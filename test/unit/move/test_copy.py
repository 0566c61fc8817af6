"""The copy between two machines, with a real rsync. A script stands for SSH."""

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
from chatmaild.common import mail_off
from chatmaild.common.errors import OperatorError
from chatmaild.move import places, receiving

PACKAGE = Path(__file__).parents[3] / "chatmail/program/files"
HOST_KEY = "ssh-ed25519 " + "A" * 68
# sshd hands the command line over like this, and runs the key's own command.
SSH = """#!/bin/sh
while [ "$1" != 192.0.2.6 ]; do shift; done
shift
SSH_ORIGINAL_COMMAND="$*" exec {python} -c '{program}'
"""
PROGRAM = """
import os, sys
sys.path.insert(0, "{package}")
from chatmaild.move import sending
try:
    command = sending.allowed_command(os.environ["SSH_ORIGINAL_COMMAND"], {paths})
except sending.OperatorError as error:
    sys.exit(str(error))
os.execvp(command[0], command)
"""


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """The directory of the old machine's mail, and where the new machine has it."""
    if not shutil.which("rsync"):
        pytest.skip("needs rsync")
    old, new = tmp_path / "old", tmp_path / "new"
    mail, keys, accounts = old / "mail", old / "keys", old / "accounts"
    for directory in (mail, keys, accounts, new):
        directory.mkdir(parents=True)
    paths = sorted([str(mail), str(keys), str(accounts), str(old / "nocreate")])
    monkeypatch.setattr(places, "list_paths", lambda _settings, _last: paths)
    monkeypatch.setattr(places, "ACCOUNTS", str(accounts))
    monkeypatch.setattr(receiving, "ROOT", f"{new}/")
    monkeypatch.setattr(receiving, "DIRECTORY", tmp_path)
    monkeypatch.setattr(receiving, "_find_reachable", lambda _addresses: "192.0.2.6")
    monkeypatch.setattr(mail_off, "MAIL_OFF", tmp_path / "mail-off")
    mail_off.write_reason("this relay comes here from old")
    program = PROGRAM.format(package=PACKAGE, paths=paths).replace("'", '"')
    script = tmp_path / "ssh"
    script.write_text(SSH.format(python=sys.executable, program=program))
    script.chmod(0o755)
    monkeypatch.setattr(receiving, "_ssh", lambda: str(script))
    return mail, Path(f"{new}{mail}")


def copy(last=False):
    return receiving.copy({"tls_mode": "self_signed"}, HOST_KEY, ["192.0.2.6"], last)


def test_copy_has_content_times_modes_and_links(machines):
    old, new = machines
    (old / "password").write_text("hash")
    (old / "password").chmod(0o640)
    os.utime(old / "password", ns=(0, 1_700_000_000_123_456_789))
    os.link(old / "password", old / "other")
    (old / "current").symlink_to("pair-1")
    assert copy() == {"files": 1, "bytes": 4}
    found = (new / "password").stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert found.st_mtime_ns == 1_700_000_000_123_456_789
    assert (new / "other").stat().st_ino == found.st_ino
    assert os.readlink(new / "current") == "pair-1"


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
