"""The files of an address: how they are made, blocked, unblocked and described."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from chatmaild.accounts import mailboxes
from passlib.hash import sha512_crypt

ADDRESS, PASSWORD = "abcdefghi@_chat.example.org", "pässwort %&+/\"'"
DAY = 24 * 3600
LAST_LOGIN = 20_000 * DAY


@pytest.fixture
def top(tmp_path):
    """Return the directory of the mailboxes."""
    return tmp_path


@pytest.fixture
def home(top):
    """Return the directory of an address with its last login on the day LAST_LOGIN."""
    assert mailboxes.create(top, ADDRESS, PASSWORD)
    os.utime(top / ADDRESS / "password", (LAST_LOGIN, LAST_LOGIN))
    return top / ADDRESS


def stored_hash(top, address=ADDRESS):
    scheme, _, hashed = Path(top, address, "password").read_text().partition("}")
    assert scheme == "{SHA512-CRYPT"
    return hashed


def create_in_another_process(mailboxes_dir, number):
    return mailboxes.create(Path(mailboxes_dir), ADDRESS, f"password of process {number}")


def test_created_address_has_a_hash_as_dovecot_makes_it_and_demands_encryption(top):
    assert mailboxes.create(top, ADDRESS, PASSWORD)

    home = Path(top, ADDRESS)
    assert sorted(each.name for each in home.iterdir()) == ["enforceE2EEincoming", "password"]
    assert stat.S_IMODE(home.stat().st_mode) == 0o710
    assert stat.S_IMODE((home / "password").stat().st_mode) == 0o600
    assert (home / "enforceE2EEincoming").read_bytes() == b""
    hashed = stored_hash(top)
    assert hashed.startswith("$6$")
    assert (
        "rounds=" not in hashed
    )  # so the hash has the default number of rounds, as from `doveadm pw`
    assert sha512_crypt.verify(PASSWORD, hashed)


def test_ten_processes_racing_for_an_address_make_one(top):
    with ProcessPoolExecutor(10) as pool:
        mailboxes = [top] * 10
        created = list(pool.map(create_in_another_process, mailboxes, range(10)))
    assert created.count(True) == 1
    winner = created.index(True)
    assert sha512_crypt.verify(f"password of process {winner}", stored_hash(top))
    assert sorted(os.listdir(Path(top, ADDRESS))) == [
        "enforceE2EEincoming",
        "password",
    ]


AT_ONCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from chatmaild.accounts import mailboxes
names = [f"thread{number:03}@_chat.example.org" for number in range(20)]
with ThreadPoolExecutor(20) as pool:
    assert all(pool.map(lambda name: mailboxes.create(sys.argv[1], name, "a password"), names))
"""


def test_first_addresses_of_a_process_may_come_at_the_same_time(top):
    """Once, some were refused: while one thread imported passlib, another saw half of it."""
    code = {"PYTHONPATH": str(Path(mailboxes.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", AT_ONCE, top], env=code, check=True)
    assert len(os.listdir(top)) == 20


def test_directory_without_password_becomes_the_address(top):
    """A crash between two steps, or a restore without the password, leaves such a directory."""
    Path(top, ADDRESS, "cur").mkdir(parents=True)
    assert mailboxes.create(top, ADDRESS, PASSWORD)
    assert sha512_crypt.verify(PASSWORD, stored_hash(top))


@pytest.mark.parametrize("content", ["", "{SHA512-CRYPT}$6$old"])
def test_existing_password_file_is_never_replaced(top, content):
    """An empty file blocks an address. Creating it again would unblock it for everybody."""
    password = Path(top, ADDRESS, "password")
    password.parent.mkdir()
    password.write_text(content)
    assert not mailboxes.create(top, ADDRESS, PASSWORD)
    assert password.read_text() == content


def test_failed_write_leaves_no_password_file(top, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mailboxes.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        mailboxes.create(top, ADDRESS, PASSWORD)
    assert os.listdir(Path(top, ADDRESS)) == ["enforceE2EEincoming"]


# Blocking.


def test_blocked_address_has_an_empty_password_and_gets_the_old_one_back(home):
    before = (home / "password").read_text()
    assert mailboxes.block(home)
    assert mailboxes.is_blocked(home)
    assert (home / "password").read_bytes() == b""
    assert mailboxes.unblock(home)
    assert not mailboxes.is_blocked(home)
    assert (home / "password").read_text() == before
    assert sorted(os.listdir(home)) == ["enforceE2EEincoming", "password"]


def test_block_keeps_the_last_login_and_the_mode(home):
    """Otherwise a blocked address would never expire, or others could read its hash."""
    mailboxes.block(home)
    for name in ("password", mailboxes.BLOCKED):
        status = (home / name).stat()
        assert status.st_mtime == LAST_LOGIN
        assert stat.S_IMODE(status.st_mode) == 0o600
    mailboxes.unblock(home)
    assert (home / "password").stat().st_mtime == LAST_LOGIN


def test_block_and_unblock_twice_change_nothing(home):
    before = (home / "password").read_text()
    assert not mailboxes.unblock(home)
    assert mailboxes.block(home)
    assert not mailboxes.block(home)
    assert mailboxes.unblock(home)
    assert not mailboxes.unblock(home)
    assert (home / "password").read_text() == before


def test_block_after_an_interrupted_one_keeps_the_right_hash(home):
    (home / mailboxes.BLOCKED).write_text("{SHA512-CRYPT}$6$older")
    before = (home / "password").read_text()
    assert mailboxes.block(home)
    assert mailboxes.unblock(home)
    assert (home / "password").read_text() == before


def test_block_that_fails_leaves_the_address_as_it_was(home, monkeypatch):
    before = (home / "password").read_text()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mailboxes.atomic_files, "replace", full)
    with pytest.raises(OSError, match="No space"):
        mailboxes.block(home)
    assert (home / "password").read_text() == before


def test_unblock_without_a_kept_hash_says_so(home):
    (home / "password").write_text("")
    with pytest.raises(ValueError, match=r"no `password\.blocked`"):
        mailboxes.unblock(home)
    assert mailboxes.is_blocked(home)


def test_block_of_an_address_that_does_not_exist_makes_nothing(top):
    with pytest.raises(FileNotFoundError):
        mailboxes.block(top / ADDRESS)
    assert os.listdir(top) == []


# Descriptions.


def test_description_counts_the_mail_of_all_folders_and_has_no_hash(home):
    for folder, sub, size in (("", "new", 10), ("", "cur", 20), (".Sent", "cur", 40)):
        directory = home / folder / sub
        directory.mkdir(parents=True)
        (directory / "1.M1.relay").write_bytes(b"x" * size)
    found = mailboxes.describe(home)
    assert found == {"blocked": False, "last_login": "2024-10-04", "messages": 3, "bytes": 70}
    mailboxes.block(home)
    assert mailboxes.describe(home) == {**found, "blocked": True}


def test_addresses_are_directories_with_the_name_of_an_address_and_a_password(top, home):
    (top / "without000@_chat.example.org").mkdir()
    for name in ("abcdefghi@example.org", "lost+found", ".expired-0123456789abcdef"):
        (top / name).mkdir()
        (top / name / "password").touch()
    mailboxes.create(top, "blocked00@_chat.example.org", PASSWORD)
    mailboxes.block(top / "blocked00@_chat.example.org")
    relay = {"mailboxes_dir": str(top), "address_domain": "_chat.example.org"}
    assert set(mailboxes.list_addresses(relay)) == {ADDRESS, "blocked00@_chat.example.org"}
