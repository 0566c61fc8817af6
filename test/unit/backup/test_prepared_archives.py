"""An archive that somebody made to harm the relay that restores it: refused before a change."""

import io
import json
import tarfile

import pytest
from chatmaild.backup import restoring
from chatmaild.common.errors import OperatorError
from support.backup import DOMAIN, seal, seal_bytes

HEAD = {"format": 1, "domain": DOMAIN, "created": "2026-11-22T03:17:00+00:00", "mail": False}
RECORD = {
    "address": f"alice0000@{DOMAIN}",
    "password": "{SHA512-CRYPT}$6$x",
    "day": 1_700_000_000,
    "blocked": None,
    "encrypted_only": True,
    "devices": None,
}


@pytest.fixture
def refused(new, key, monkeypatch, tmp_path):
    """Return a function that restores an archive of a tar stream and returns the error."""
    new.use(monkeypatch)

    def restore(content):
        path = tmp_path / "prepared.age"
        if isinstance(content, bytes):
            seal_bytes(path, key[1], content)
        else:
            seal(path, key[1], content)
        before = new.files()
        with pytest.raises(OperatorError) as caught:
            restoring.restore(new.settings, str(path), str(key[0]))
        assert new.files() == before
        return str(caught.value)

    return restore


def members(*extra, **head):
    listed = [("backup.json", json.dumps({**HEAD, **head}).encode()), ("invitations.json", b"{}")]
    listed += extra
    return [*listed, ("end.json", json.dumps({"members": len(listed)}).encode())]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_header_of_gigabytes_is_not_read(refused, kind):
    """Once, such a header took memory as long as there was some."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 100 << 30
    content = header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)
    assert "a header of 107374182400 bytes" in refused(content)


def test_long_name_as_tar_writes_it_is_read(refused):
    """So the refusal above is for the size alone."""
    assert "which no backup has" in refused(members(("x" * 5000, b"")))


@pytest.mark.parametrize("created", ["\x1b[2J", "x" * 1000, 7, None, ["x"]])
def test_time_that_would_reach_the_terminal_is_a_time(refused, created):
    assert "no time of its making" in refused(members(created=created))


@pytest.mark.parametrize("name", ["password", "devices", "blocked"])
def test_text_that_no_file_can_hold_is_refused(refused, name):
    """Once, it ended the restore in the middle, and nobody could create an address after that."""
    record = json.dumps({**RECORD, name: "\ud800"}).encode()
    assert "is not valid" in refused(members(("addresses/000001.jsonl", record)))


def with_message(time, *extra):
    """Return a tar stream with a message that has this modification time."""
    stream = io.BytesIO()
    listed = members((f"mail/alice0000@{DOMAIN}/inbox/cur/1.host", b"x"), *extra)
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in listed:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name.startswith("mail/"):
                member.pax_headers = {"mtime": time}
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("time", ["inf", "nan", "-1e30", "1e30"])
def test_message_of_an_impossible_time_is_refused(refused, time):
    assert "has the time" in refused(with_message(time))


def test_message_that_its_user_dated_before_1970_comes_back(new, key, monkeypatch, tmp_path):
    """IMAP lets a client choose the date, so no client may spoil the restore of a whole relay."""
    new.use(monkeypatch)
    record = json.dumps(RECORD).encode()
    path = tmp_path / "old.age"
    seal_bytes(path, key[1], with_message("-86400", ("addresses/000001.jsonl", record)))
    found = restoring.restore(new.settings, str(path), str(key[0]))
    assert found["addresses"] == 1
    assert (new.mail / f"alice0000@{DOMAIN}/cur/1.host").stat().st_mtime == -86400
