"""The addresses and the invitations: a JSON record each, which holds no path.

The functions that open files of the mailboxes run with the rights of the mail's user, so that links
in these directories lead nowhere else.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from chatmaild.accounts import invitations, mailboxes, sessions
from chatmaild.backup.machine import read_settled
from chatmaild.common import atomic_files
from chatmaild.common.addresses import is_address
from chatmaild.common.errors import OperatorError

MAIL_USER = "vmail"
# Bytes. A hash has about 120, and the tokens of 32 devices have 132 KB at most.
MAX_HASH, MAX_DEVICES = 1024, 256 << 10
# A member of the archive begins after this many bytes of records.
MEMBER_SIZE = 256 << 10
INVITATION = {"uses": int, "until": int, "note": str}
RECORD = {
    "address": str,
    "password": str,
    "day": int,
    "blocked": str | None,
    "encrypted_only": bool,
    "devices": str | None,
}


def snapshot(settings: dict) -> tuple[list[str], dict[str, dict]]:
    """Return the addresses and the invitations of one moment.

    While the invitations are locked, none of them creates an address. So an archive never has an
    address whose invitation can be used once more. Raises OSError.
    """
    with _acting_as_mail_user():
        names = invitations.DIRECTORY
        with invitations.locked(names):
            found = {path.name: json.loads(path.read_text()) for path in names.glob("[0-9a-f]*")}
            return sorted(mailboxes.list_addresses(settings)), found


def read(settings: dict, addresses: list[str]) -> Iterator[bytes]:
    """Yield the records of addresses, one in a line, in pieces for a member of the archive.

    An address that was deleted meanwhile is left out. Raises OperatorError for one that cannot be
    read.
    """
    lines, size = [], 0
    with _acting_as_mail_user():
        for address in addresses:
            home = Path(settings["mailboxes_dir"]) / address
            try:
                record = read_settled(lambda home=home: _read(home))
            except (OSError, OperatorError) as error:
                raise OperatorError(f"an address cannot be read: {error}") from None
            if record is None:
                continue
            lines.append(json.dumps(record).encode() + b"\n")
            size += len(lines[-1])
            if size >= MEMBER_SIZE:
                yield b"".join(lines)
                lines, size = [], 0
    if lines:
        yield b"".join(lines)


def _read(home):
    """Return the record of an address, None when it does not exist (any more)."""
    try:
        with open(home / "password", "rb") as file:
            password, status = file.read(MAX_HASH), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    return {
        "address": home.name,
        "password": os.fsdecode(password),
        "day": int(status.st_mtime),
        "blocked": None if password else _text(home / mailboxes.BLOCKED, MAX_HASH),
        "encrypted_only": (home / "enforceE2EEincoming").exists(),
        "devices": _text(home / "metadata.json", MAX_DEVICES),
    }


def _text(path, limit):
    """Return the text of a file, None without the file."""
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read(limit))
    except FileNotFoundError:
        return None


def parse(content: bytes, address_domain: str) -> Iterator[dict]:
    """Yield the records of a member. Raises OperatorError for one that no backup has."""
    for line in content.splitlines():
        try:
            record = json.loads(line)
            good = set(record) == set(RECORD) and all(
                isinstance(record[name], kind) for name, kind in RECORD.items()
            )
            good = good and is_address(record["address"], address_domain)
            good = good and len(record["password"]) <= MAX_HASH and 0 <= record["day"] < 1 << 40
            for name in ("password", "blocked", "devices"):
                os.fsencode(record[name] or "")
        except (ValueError, TypeError):
            good = False
        if not good:
            raise OperatorError(f"the record of an address at {address_domain} is not valid")
        yield record


def check_invitations(found: dict) -> dict:
    """Return the invitations of a member. Raises OperatorError for one that no backup has."""
    for digest, content in found.items():
        good = isinstance(content, dict) and set(content) == set(INVITATION)
        good = good and all(isinstance(content[name], kind) for name, kind in INVITATION.items())
        if not good or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise OperatorError("the record of an invitation is not valid")
    return found


def exists(settings: dict, address: str) -> bool:
    """Return whether an address is on this machine."""
    return os.path.lexists(Path(settings["mailboxes_dir"]) / address / "password")


def has_any(settings: dict) -> bool:
    """Return whether this machine has an address."""
    with _acting_as_mail_user():
        return next(mailboxes.list_addresses(settings), None) is not None


def place(settings: dict, record: dict) -> bool:
    """Bring an address back; return False when this machine has it, as it stays then.

    The password comes last. So an address that exists is complete, and a restore that was
    interrupted goes on with the next one. Raises OSError.
    """
    if exists(settings, record["address"]):
        return False
    home = make_home(settings, record["address"])
    if record["encrypted_only"]:
        (home / "enforceE2EEincoming").touch(mode=0o640)
    if record["devices"] is not None:
        atomic_files.replace(home / "metadata.json", os.fsencode(record["devices"]))
    times = record["day"] * 10**9, record["day"] * 10**9
    if record["blocked"] is not None:
        atomic_files.replace(home / mailboxes.BLOCKED, os.fsencode(record["blocked"]), times=times)
    atomic_files.replace(
        home / "password", os.fsencode(record["password"]), times=times, exclusive=True
    )
    return True


def make_home(settings: dict, address: str) -> Path:
    """Return the directory of an address, which is made if it is missing."""
    home = Path(settings["mailboxes_dir"]) / address
    with contextlib.suppress(FileExistsError):
        home.mkdir()
        home.chmod(mailboxes.HOME_MODE)
    return home


def place_invitations(found: dict) -> None:
    """Bring the invitations back that this machine lacks. Raises OSError."""
    with _acting_as_mail_user(), invitations.locked(invitations.DIRECTORY):
        for digest, content in found.items():
            if not (invitations.DIRECTORY / digest).exists():
                atomic_files.replace(invitations.DIRECTORY / digest, json.dumps(content))


def _acting_as_mail_user():
    return sessions.acting_as(MAIL_USER)
