"""Invitations: tokens with which people create addresses where registration is `invite`.

An invitation is a file named after the SHA-256 of its token, so nobody can use an invitation after
reading the disk. The operator's commands and the accounts service change the files under one lock.
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

# systemd makes the parent directory: StateDirectory= of chatmail-accounts.
DIRECTORY = Path("/var/lib/chatmail-accounts/invitations")
# 128 bits, so nobody can guess a token.
TOKEN_BYTES = 16
TOKEN = re.compile(r"[A-Za-z0-9_-]{22,43}")
# The id of an invitation is the first digits of its hash. Without the letter in front, Salt would
# take some ids for numbers.
ID = re.compile(r"i([0-9a-f]{11})")
DIGEST = re.compile(r"[0-9a-f]{64}")
DAY = 24 * 3600
MAX_USES = 100_000
MAX_DAYS = 3650
MAX_NOTE = 200


class NotInvited(Exception):
    """No valid invitation has this token: it never existed, or is used up, expired or revoked.

    The client does not learn which of these.
    """


class Invitation(NamedTuple):
    """The content of an invitation's file.

    uses: the number of addresses that it can still create.
    until: the time of expiry in Unix seconds.
    note: the operator's note.
    """

    uses: int
    until: int
    note: str


def make(directory: Path, uses: int, days: int, note: str, now: float) -> str:
    """Make an invitation; return its token, which the relay does not keep.

    The arguments and the errors are those of `add`.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    add(directory, _digest(token), uses, days, note, now)
    return token


def add(directory: Path, digest: str, uses: int, days: int, note: str, now: float) -> str:
    """Make an invitation whose token somebody else has; return its id.

    digest: the SHA-256 of the token, in hexadecimal.
    uses: the number of addresses that it can create. days: the time until it expires.
    note: a text for the operator, such as the name of the person who gets the invitation.
    Raises ValueError, whose text says what is allowed, and OSError.
    """
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ValueError("digest: allowed is a SHA-256, 64 hexadecimal digits in lower case")
    for name, value, largest in (("uses", uses, MAX_USES), ("days", days, MAX_DAYS)):
        if type(value) is not int or not 1 <= value <= largest:
            raise ValueError(f"{name}: {value!r}, allowed is a whole number from 1 to {largest}")
    if not isinstance(note, str) or len(note) > MAX_NOTE or not note.isprintable():
        raise ValueError(f"note: allowed is a printable text of at most {MAX_NOTE} characters")
    with locked(directory):
        _drop_expired(directory, now)
        _write(directory / digest, Invitation(uses, int(now) + days * DAY, note))
    return _id(digest)


def list_valid(directory: Path, now: float) -> dict[str, Invitation]:
    """Return the valid invitations, by id. Raises OSError."""
    with locked(directory):
        _drop_expired(directory, now)
        return {_id(path.name): _read(path) for path in directory.glob("[0-9a-f]*")}


def revoke(directory: Path, identifier: str) -> bool:
    """Withdraw an invitation; return False when no invitation has that id. Raises OSError."""
    match = ID.fullmatch(identifier)
    if not match:
        return False
    with locked(directory):
        found = list(directory.glob(f"{match[1]}*"))
        for path in found:
            path.unlink()
    return bool(found)


def identifier(token: str) -> str:
    """Return the id of an invitation, which `list_valid` and `revoke` use."""
    return _id(_digest(token))


@contextlib.contextmanager
def redeem(directory: Path, token: str, now: float) -> Iterator[None]:
    """Lock the invitations while an address is created, and then take one use from this one.

    Other requests with an invitation wait for the lock, so no invitation creates too many
    addresses. An exception in the `with` block leaves the invitation as it was.
    Raises NotInvited, and OSError.
    """
    if not TOKEN.fullmatch(token):
        raise NotInvited
    path = _path(directory, token)
    with locked(directory):
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
def locked(directory: Path) -> Iterator[None]:
    """Let nobody else read or change the invitations within a `with` block."""
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
