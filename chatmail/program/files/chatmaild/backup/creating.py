"""How an archive is made, checked without its private key, and removed when newer ones exist."""

import contextlib
import datetime
import hmac
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from chatmaild.accounts import sessions
from chatmaild.backup import addresses, archive, machine, messages
from chatmaild.common import atomic_files, locks
from chatmaild.common.errors import InvalidRequest, OperatorError

ARCHIVES = Path("/var/backups/chatmail/archives")
LOCK = Path("/run/chatmail-backup.lock")
# While this file exists, a restore is not finished. It has the SHA-256 of the archive.
RESTORING = Path("/etc/chatmail/restoring")
# A backup that was killed leaves such a file, and the next one removes it.
DRAFT_PREFIX = ".chatmail-backup-"
DIGEST_SUFFIX = ".sha256"


def create(
    settings: dict,
    path: str | None = None,
    mail: bool = False,
    keep: int | None = None,
    pillar: dict | None = None,
) -> dict:
    """Write an archive, as `chatmail_backup.create` describes.

    pillar: the mapping `chatmail` of the pillar, for reading. Raises OperatorError.
    """
    recipients = settings.get("backup_recipients")
    if not recipients:
        raise OperatorError(
            "chatmail:backup_recipients is empty, so nobody could open the archive: set it in the "
            "pillar, and run `salt-call state.apply chatmail`"
        )
    if keep is not None and (type(keep) is not int or keep < 1):
        raise InvalidRequest(f"keep: {keep!r}, allowed is a whole number from 1")
    moment = datetime.datetime.now(datetime.UTC)
    target = _choose_path(settings, path, moment)
    with locked():
        if RESTORING.exists():
            raise OperatorError(f"a restore is not finished, as {RESTORING} says: run it again")
        head = {
            "format": archive.FORMAT,
            "domain": settings["mail_domain"],
            "created": moment.isoformat(timespec="seconds"),
            "mail": mail,
        }
        counts, digest = {}, None
        with _draft(target.parent) as (file, draft):
            archive.encrypt(
                file, recipients, lambda put: counts.update(_fill(put, settings, head, pillar))
            )
            os.fsync(file.fileno())
            digest, size = archive.sha256_of(file), os.fstat(file.fileno()).st_size
            _publish(draft, target, digest)
        removed = _remove_older(settings, target.parent, keep)
    return {
        "path": str(target),
        "sha256": digest,
        "bytes": size,
        "recipients": len(recipients),
        **counts,
        "removed": removed,
    }


def _choose_path(settings, path, moment):
    """Return the path of a new archive, whose directory exists."""
    if path is None:
        ARCHIVES.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = Path(path or ARCHIVES)
    if not target.is_absolute():
        raise InvalidRequest(f"path: {path!r}, expected an absolute path")
    if target.is_dir():
        target /= f"{settings['mail_domain']}-{moment:%Y%m%dT%H%M%SZ}.age"
    if not target.parent.is_dir():
        raise InvalidRequest(f"path: the directory {target.parent} does not exist: make it first")
    if os.path.lexists(target):
        raise InvalidRequest(f"path: {target} exists, and an archive is never overwritten")
    return target


def _fill(put, settings, head, pillar):
    """Put everything into the archive; return how much it was."""
    put(archive.HEAD, archive.to_json(head))
    if pillar:
        put("pillar.json", archive.to_json({"chatmail": pillar}))
    put("relay.json", archive.to_json(settings))
    for name, content in machine.read_settled(lambda: machine.read(settings)).items():
        put(name, content)
    names, invitations = addresses.snapshot(settings)
    put("invitations.json", archive.to_json(invitations))
    counts = {"invitations": len(invitations), "addresses": 0}
    if head["mail"]:
        # Mail comes before its address: a restore makes the address when its mail is there.
        with sessions.acting_as(addresses.MAIL_USER):
            counts["messages"] = messages.put_all(settings, names, put)
    for number, content in enumerate(addresses.read(settings, names), 1):
        put(f"addresses/{number:06}.jsonl", content)
        counts["addresses"] += content.count(b"\n")
    return counts


def locked() -> contextlib.AbstractContextManager[None]:
    """Let one backup or restore run at a time. Raises OperatorError in a second process."""
    return locks.alone(
        LOCK, "another backup or restore runs on this machine: wait for it, then run this again"
    )


@contextlib.contextmanager
def _draft(directory):
    """Yield a new file in a directory and its path. The name is gone after the `with` block."""
    for path in directory.glob(f"{DRAFT_PREFIX}*"):
        path.unlink()
    path = directory / f"{DRAFT_PREFIX}{os.urandom(8).hex()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "rb", buffering=0) as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _publish(draft, target, digest):
    """Give a complete archive its name, after its digest."""
    line = f"{digest}  {target.name}\n"
    atomic_files.replace(digest_path(target), line, durable=True)
    os.rename(draft, target)
    atomic_files.sync_directory(target.parent)


def digest_path(path: Path) -> Path:
    """Return the path of the file with the digest of an archive, as sha256sum(1) reads it."""
    return path.with_name(path.name + DIGEST_SUFFIX)


def _remove_older(settings, directory, keep):
    """Remove all archives of this relay in a directory but the newest; return how many."""
    if keep is None:
        return 0
    name = re.compile(rf"{re.escape(settings['mail_domain'])}-[0-9]{{8}}T[0-9]{{6}}Z\.age")
    found = sorted(path for path in directory.iterdir() if name.fullmatch(path.name))
    for path in found[:-keep]:
        path.unlink()
        digest_path(path).unlink(missing_ok=True)
    return len(found[:-keep])


def verify(_settings: dict, path: str, sha256: str | None = None) -> dict:
    """Compare an archive with its digest, as `chatmail_backup.verify` describes.

    Raises OperatorError when they differ, or when there is no digest.
    """
    with opened(path) as file:
        expected = sha256 or read_digest(Path(path))
        if expected is None:
            raise OperatorError(
                f"{digest_path(Path(path))} is missing: give `sha256`, which "
                "chatmail_backup.create returned"
            )
        found = check_digest(file, path, expected)
        return {"path": str(path), "sha256": found, "bytes": os.fstat(file.fileno()).st_size}


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Open a file that begins like an encrypted one. Raises OperatorError for any other."""
    with open(path, "rb", buffering=0) as file:
        if file.read(len(archive.AGE_INTRO)) != archive.AGE_INTRO:
            raise OperatorError(f"{path} is not a file that age has encrypted, so it is no archive")
        yield file


def read_digest(path: Path) -> str | None:
    """Return what the file beside an archive says, None without the file."""
    try:
        return digest_path(path).read_text().split()[0]
    except FileNotFoundError:
        return None
    except (ValueError, IndexError):
        raise OperatorError(f"{digest_path(path)} holds no SHA-256 digest") from None


def check_digest(file: BinaryIO, path: str, expected: str) -> str:
    """Return the digest of an open archive. Raises OperatorError when it is another one."""
    found = archive.sha256_of(file)
    if not hmac.compare_digest(found, str(expected).lower()):
        raise OperatorError(
            f"{path} is damaged, incomplete or another archive: its SHA-256 is {found}, expected "
            f"{expected}. Fetch it again, or take another archive"
        )
    return found
