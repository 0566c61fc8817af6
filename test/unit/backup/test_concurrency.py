"""A relay goes on working during a backup, and the archive is of one moment where it matters."""

import json
import os
import threading
import time

import pytest
from chatmaild.accounts import invitations, mailboxes
from chatmaild.backup import addresses, creating, machine, messages
from chatmaild.common.errors import OperatorError
from support.backup import DOMAIN, INVITED, unseal


def records(members):
    lines = b"".join(c for name, c in members.items() if name.startswith("addresses/"))
    return {each["address"]: each for each in map(json.loads, lines.splitlines())}


class Busy(threading.Thread):
    """Calls a function again and again while a `with` block runs."""

    def __init__(self, function):
        super().__init__(daemon=True)
        self.function, self.enough, self.calls = function, threading.Event(), 0

    def run(self):
        while not self.enough.is_set():
            self.function()
            self.calls += 1

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.enough.set()
        self.join()


def test_hash_is_never_lost_while_an_operator_blocks_and_unblocks(old, key, tmp_path):
    home = old.mail / f"alice0000@{DOMAIN}"
    hashed = (home / "password").read_text()

    def toggle():
        mailboxes.block(home)
        time.sleep(0.001)
        mailboxes.unblock(home)
        time.sleep(0.001)

    with Busy(toggle):
        for number in range(5):
            path = tmp_path / f"{number}.age"
            creating.create(old.settings, path=str(path))
            found = records(unseal(path, key[0]))[home.name]
            assert hashed in (found["password"], found["blocked"])
            assert found["password"] in (hashed, "")


def test_half_blocked_address_is_read_again(old, monkeypatch):
    """The hash moves from one file to the other between the two reads."""
    home = old.mail / f"alice0000@{DOMAIN}"
    read_text, moves = addresses._text, iter([mailboxes.unblock])

    def slow(path, limit):
        if path.name == mailboxes.BLOCKED and (move := next(moves, None)):
            move(home)
        return read_text(path, limit)

    hashed = (home / "password").read_text()
    mailboxes.block(home)
    monkeypatch.setattr(addresses, "_text", slow)
    [line] = addresses.read(old.settings, [home.name])
    assert json.loads(line)["password"] == hashed


def test_invitation_and_its_addresses_are_of_one_moment(old, key, tmp_path):
    """Otherwise a restored invitation would create more addresses than it was for."""
    uses = 100_000
    token = invitations.make(old.invitations, uses, 7, "", time.time())
    names = iter(range(10_000_000, uses + 10_000_000))

    def register():
        with invitations.redeem(old.invitations, token, time.time()):
            mailboxes.create(old.mail, f"i{next(names)}@{DOMAIN}", "a good password")

    with Busy(register):
        for number in range(5):
            path = tmp_path / f"{number}.age"
            creating.create(old.settings, path=str(path))
            members = unseal(path, key[0])
            left = json.loads(members["invitations.json"])
            left = next(each["uses"] for digest, each in left.items() if digest != INVITED)
            invited = [name for name in records(members) if name.startswith("i")]
            assert len(invited) == uses - left


def test_keys_of_a_rotation_are_all_in_the_archive(old, monkeypatch):
    """The rotation goes on between two reads: a new key signs, and an old one is removed."""
    dkim, reads = old.root / machine.DKIM, []
    original = machine.read

    def read(settings):
        found = original(settings)
        reads.append(found)
        if len(reads) == 1:
            (dkim / "r3.pem").write_text("LATER KEY")
            (dkim / "signing.json").write_text('{"selectors": ["r3", "e1"]}')
            (dkim / "r1.pem").unlink()
        return found

    found = machine.read_settled(lambda: read(old.settings))
    assert len(reads) == 3
    assert f"{machine.DKIM}/r3.pem" in found
    assert f"{machine.DKIM}/r1.pem" not in found
    assert found[machine.SIGNING] == b'{"selectors": ["r3", "e1"]}'


def test_files_that_never_settle_are_an_error():
    with pytest.raises(OperatorError, match="changed 50 times"):
        machine.read_settled(object)


def test_address_that_is_deleted_meanwhile_is_left_out(old):
    lines = b"".join(addresses.read(old.settings, ["gone00000@" + DOMAIN, f"alice0000@{DOMAIN}"]))
    assert lines.count(b"\n") == 1


def test_message_that_a_client_moves_is_there_once(old, monkeypatch):
    """A client reads the message between the list of its folder and the opening of the file."""
    home = old.mail / f"alice0000@{DOMAIN}"
    for place in ("new", "cur"):
        (home / place).mkdir()
    (home / "new/1.host").write_bytes(b"hello")
    (home / "cur/2.host:2,").write_bytes(b"again")
    moves = iter([("new/1.host", "cur/1.host:2,S"), ("cur/2.host:2,", "cur/2.host:2,S")])
    listdir = os.listdir

    def slow(path):
        found = listdir(path)
        if (move := next(moves, None)) is not None:
            os.rename(home / move[0], home / move[1])
        return found

    monkeypatch.setattr(os, "listdir", slow)
    found = {}
    count = messages.put_all(
        old.settings, [home.name], lambda name, file, **_: found.update({name: file.read()})
    )
    prefix = f"mail/{home.name}/inbox/cur"
    assert found == {f"{prefix}/1.host:2,S": b"hello", f"{prefix}/2.host:2,S": b"again"}
    assert count == 2


def test_large_relay_needs_little_memory(old, tmp_path, key):
    """Records go into the archive in pieces, so memory does not grow with the addresses."""
    hashed = (old.mail / f"alice0000@{DOMAIN}/password").read_text()
    names = []
    for number in range(3000):
        home = old.mail / f"u{number:08}@{DOMAIN}"
        home.mkdir()
        (home / "password").write_text(hashed)
        names.append(home.name)
    pieces = list(addresses.read(old.settings, names))
    assert b"".join(pieces).count(b"\n") == 3000
    assert max(map(len, pieces)) < addresses.MEMBER_SIZE + 2048
    assert len(pieces) > 2
