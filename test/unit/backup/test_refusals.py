"""An archive that is damaged, foreign, of another format or hostile changes nothing."""

import json
import os
import tarfile

import pytest
from chatmaild.backup import archive, creating, restoring
from chatmaild.common.errors import OperatorError
from support.backup import DOMAIN, make_key, seal, seal_bytes, unseal

HEAD = {"format": 1, "domain": DOMAIN, "created": "2026-11-22T03:17:00+00:00", "mail": False}


@pytest.fixture
def refused(new, key, monkeypatch):
    """Return a function that restores an archive and returns the error. Nothing may change."""
    new.use(monkeypatch)

    def restore(path, identity=key[0], **arguments):
        before = new.files()
        with pytest.raises(OperatorError) as caught:
            restoring.restore(new.settings, str(path), str(identity), **arguments)
        assert new.files() == before
        assert str(caught.value).endswith("Nothing was changed")
        return str(caught.value)

    return restore


@pytest.fixture
def large(old, tmp_path):
    """An archive of some pieces of 64 KiB, without a digest beside it."""
    (old.mail / f"alice0000@{DOMAIN}/cur").mkdir()
    (old.mail / f"alice0000@{DOMAIN}/cur/1.host").write_bytes(os.urandom(150_000))
    path = tmp_path / "large.age"
    creating.create(old.settings, path=str(path), mail=True)
    creating.digest_path(path).unlink()
    return path


def members(head=None, extra=(), **replaced):
    """Return the members of a small archive that would be accepted."""
    found = {"backup.json": {**HEAD, **(head or {})}, "invitations.json": {}, **replaced}
    listed = [(name, json.dumps(content).encode()) for name, content in found.items()]
    listed += extra
    return [*listed, ("end.json", json.dumps({"members": len(listed)}).encode())]


def test_archive_made_by_hand_is_accepted(tmp_path, new, key, monkeypatch):
    """So the refusals below have no other reason."""
    path = tmp_path / "good.age"
    seal(path, key[1], members())
    result = restoring.restore(new.use(monkeypatch).settings, str(path), str(key[0]))
    assert result["addresses"] == 0


def test_truncated_archive_is_refused_wherever_it_ends(large, refused):
    content = large.read_bytes()
    header = content.index(b"\n--- ") + 50
    # age writes a nonce of 16 bytes, then pieces of 64 KiB with a tag of 16 bytes.
    pieces = range(header + 16, len(content), 65536 + 16)
    assert len(pieces) > 2
    ends = {*pieces, *range(0, len(content), 65536), 22, header, len(content) - 1}
    for end in sorted(ends | {piece - 1 for piece in pieces} | {piece + 1 for piece in pieces}):
        large.write_bytes(content[:end])
        refused(large)


def test_changed_byte_is_noticed_in_every_part(large, refused):
    content = large.read_bytes()
    for at in [0, 30, 60, content.index(b"\n--- ") + 8, *range(300, len(content), 30_011)]:
        large.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        refused(large)
    large.write_bytes(content + b"x")
    refused(large)


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c + b"x", lambda c: c[:200]])
def test_verify_without_a_key_notices_damage(old, damage):
    made = creating.create(old.settings)
    with open(made["path"], "r+b") as file:
        content = file.read()
        file.seek(0)
        file.truncate()
        file.write(damage(content))
    for arguments in ({}, {"sha256": made["sha256"]}):
        with pytest.raises(OperatorError, match="damaged, incomplete or another archive"):
            creating.verify({}, made["path"], **arguments)


def test_verify_needs_a_digest_and_an_archive(old, tmp_path):
    made = creating.create(old.settings)
    os.unlink(made["path"] + ".sha256")
    with pytest.raises(OperatorError, match=r"\.sha256 is missing: give `sha256`"):
        creating.verify({}, made["path"])
    assert creating.verify({}, made["path"], made["sha256"].upper())["bytes"] == made["bytes"]
    (tmp_path / "no.age").write_text("no archive")
    with pytest.raises(OperatorError, match="is not a file that age has encrypted"):
        creating.verify({}, str(tmp_path / "no.age"))


def test_digest_that_differs_is_refused_before_anything_is_opened(old, refused, key, monkeypatch):
    made = creating.create(old.settings)
    assert "expected 00" in refused(made["path"], sha256="00" * 32)
    with open(made["path"] + ".sha256", "w") as file:
        file.write("11" * 32)
    assert "expected 11" in refused(made["path"])


def test_key_of_somebody_else_does_not_open_it(large, refused, tmp_path):
    assert "no identity matched" in refused(large, make_key(tmp_path)[0])
    assert "there is no file" in refused(large, tmp_path / "missing.txt")


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ({"domain": "other.example"}, "is of 'other.example', and this relay is"),
        ({"domain": None}, "is of None"),
        ({"format": 0}, "has format 0, expected 1"),
        ({"format": 2}, "has format 2, expected 1"),
        ({"format": "1"}, "has format '1'"),
    ],
)
def test_archive_of_another_relay_or_format_is_refused(refused, key, tmp_path, head, text):
    path = tmp_path / "other.age"
    seal(path, key[1], members(head))
    assert text in refused(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a tar archive", b"\0" * 10240, os.urandom(5000)],
    ids=["nothing", "text", "zeros", "noise"],
)
def test_encrypted_file_of_another_kind_is_refused(refused, key, tmp_path, content):
    seal_bytes(tmp_path / "other.age", key[1], content)
    refused(tmp_path / "other.age")


def test_archive_of_a_backup_that_broke_off_is_refused(old, refused, key, tmp_path):
    """The encryption is whole here, so age notices nothing."""
    made = creating.create(old.settings)
    listed = list(unseal(made["path"], key[0]).items())
    for end in range(len(listed)):
        seal(tmp_path / "short.age", key[1], listed[:end])
        refused(tmp_path / "short.age")


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


RECORD = {
    "address": f"alice0000@{DOMAIN}",
    "password": "{SHA512-CRYPT}x",
    "day": 0,
    "blocked": None,
    "encrypted_only": True,
    "devices": None,
}


def record(**changed):
    return ("addresses/000001.jsonl", json.dumps({**RECORD, **changed}).encode())


HOSTILE = {
    "path from the root": ("/etc/passwd", b"x"),
    "path upwards": ("../../etc/passwd", b"x"),
    "path of another program": ("etc/cron.d/evil", b"x"),
    "path upwards from the keys": ("etc/chatmail/dkim/../../cron.d/evil.pem", b"x"),
    "path upwards from the account": ("etc/letsencrypt/accounts/../../x/regr.json", b"x"),
    "another name below certbot": ("etc/letsencrypt/renewal-hooks/deploy/evil", b"x"),
    "renewal of another certificate": ("etc/letsencrypt/renewal/shop.conf", b"x"),
    "mail upwards": (f"mail/alice0000@{DOMAIN}/../cur/x", b"x"),
    "mail beside a mailbox": (f"mail/alice0000@{DOMAIN}/inbox/password", b"x"),
    "symbolic link": link(f"mail/alice0000@{DOMAIN}/inbox/cur/x", "/etc/shadow"),
    "symbolic link as a key": link("etc/chatmail/dkim/r1.pem", "/etc/shadow"),
    "hard link": link("etc/chatmail/dkim/r1.pem", "backup.json", tarfile.LNKTYPE),
    "directory": link("etc/chatmail/dkim", "", tarfile.DIRTYPE),
    "device": link("etc/chatmail/turn-secret", "", tarfile.CHRTYPE),
    "large key": ("etc/chatmail/turn-secret", b"x" * (archive.MAX_MEMBER + 1)),
    "address of another domain": record(address="alice0000@other.example"),
    "address upwards": record(address=f"../../etc@{DOMAIN}"),
    "address with a slash": record(address=f"a/b@{DOMAIN}"),
    "address that is a number": record(address=7),
    "password that is a list": record(password=["x"]),
    "password that is long": record(password="x" * 2000),
    "day before 1970": record(day=-1),
    "field that is unknown": record(owner="root"),
    "record that is no object": ("addresses/000001.jsonl", b"[]\n"),
    "record that is no JSON": ("addresses/000001.jsonl", b"{\n"),
    "second head": ("backup.json", json.dumps(HEAD).encode()),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused(refused, key, tmp_path, name):
    """Somebody who knows the recipient can encrypt anything to it."""
    seal(tmp_path / "hostile.age", key[1], members(extra=[HOSTILE[name]]))
    refused(tmp_path / "hostile.age")


@pytest.mark.parametrize(
    "content",
    [
        {"../../etc/passwd": {"uses": 1, "until": 1, "note": ""}},
        {"ab" * 32: {"uses": "1", "until": 1, "note": ""}},
        {"ab" * 32: {"uses": 1, "until": 1}},
        {"AB" * 32: {"uses": 1, "until": 1, "note": ""}},
        {"ab" * 32: []},
    ],
)
def test_hostile_invitation_is_refused(refused, key, tmp_path, content):
    seal(tmp_path / "hostile.age", key[1], members(**{"invitations.json": content}))
    assert "invitation" in refused(tmp_path / "hostile.age")
