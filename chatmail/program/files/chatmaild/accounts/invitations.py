"""Invitations: words by which somebody may make an address where that is not open to everybody.

Each is a file named after the SHA-256 of its token, so that who reads the disk can use none. The
operator's commands and the accounts service change them under one lock.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from chatmaild.common import atomic_files

# Made by systemd, StateDirectory= of chatmail-accounts.
DIRECTORY = Path("/var/lib/chatmail-accounts/invitations")
# 128 bits: nobody guesses one.
TOKEN_BYTES = 16
TOKEN = re.compile(r"[A-Za-z0-9_-]{22,43}")
# People speak of an invitation by the first digits of its hash. The letter before them keeps Salt
# from taking some for a number.
ID = re.compile(r"i([0-9a-f]{11})")
DAY = 24 * 3600
MAX_USES = 100_000
MAX_DAYS = 3650
MAX_NOTE = 200


class NotInvited(Exception):
    """There is no such invitation, or it is used up, too old or revoked: which, nobody is told."""


class Invitation(NamedTuple):
    """What a file holds.

    uses: how many addresses it still makes. until: Unix seconds. note: the operator's.
    """

    uses: int
    until: int
    note: str


def make(directory: Path, uses: int, days: int, note: str, now: float) -> str:
    """Make an invitation; return its token, which is known to nobody else.

    uses: how many addresses it makes. days: how long it holds. note: for whom, say.
    Raises ValueError with what is allowed, and OSError.
    """
    for name, value, largest in (("uses", uses, MAX_USES), ("days", days, MAX_DAYS)):
        if type(value) is not int or not 1 <= value <= largest:
            raise ValueError(f"{name}: {value!r}, allowed is a whole number from 1 to {largest}")
    if not isinstance(note, str) or len(note) > MAX_NOTE or not note.isprintable():
        raise ValueError(f"note: allowed is a printable text of at most {MAX_NOTE} characters")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with _locked(directory):
        _drop_expired(directory, now)
        _write(_path(directory, token), Invitation(uses, int(now) + days * DAY, note))
    return token


def list_valid(directory: Path, now: float) -> dict[str, Invitation]:
    """Return the invitations that hold, by id. Raises OSError."""
    with _locked(directory):
        _drop_expired(directory, now)
        return {_id(path.name): _read(path) for path in directory.glob("[0-9a-f]*")}


def revoke(directory: Path, identifier: str) -> bool:
    """Withdraw an invitation; return False where there is none of that id. Raises OSError."""
    match = ID.fullmatch(identifier)
    if not match:
        return False
    with _locked(directory):
        found = list(directory.glob(f"{match[1]}*"))
        for path in found:
            path.unlink()
    return bool(found)


def identifier(token: str) -> str:
    """Return the id of an invitation, by which it is listed and revoked."""
    return _id(_digest(token))


@contextlib.contextmanager
def redeem(directory: Path, token: str, now: float) -> Iterator[None]:
    """Hold an invitation while an address is made for it; it has one use less if that succeeds.

    Others who come with an invitation wait meanwhile, so that none makes an address too many.
    Raises NotInvited, and OSError.
    """
    if not TOKEN.fullmatch(token):
        raise NotInvited
    path = _path(directory, token)
    with _locked(directory):
        try:
            invitation = _read(path)
        except FileNotFoundError:
            raise NotInvited from None
        if invitation.until < now:
            raise NotInvited
        yield
        if invitation.uses == 1:
            path.unlink()
        else:
            _write(path, invitation._replace(uses=invitation.uses - 1))


@contextlib.contextmanager
def _locked(directory):
    directory.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _id(digest):
    return f"i{digest[:11]}"


def _digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


def _path(directory, token):
    return directory / _digest(token)


def _read(path):
    return Invitation(**json.loads(path.read_text()))


def _write(path, invitation):
    atomic_files.replace(path, json.dumps(invitation._asdict()))


def _drop_expired(directory, now):
    for path in directory.glob("[0-9a-f]*"):
        if _read(path).until < now:
            path.unlink()
