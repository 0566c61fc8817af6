"""What the relay keeps of an address: a directory, the mail in it, and small files beside that.

`password` holds the hash, and its time is that of the last login. An empty one blocks the address:
Dovecot's Lua lets nobody in, and the filter takes no mail from or for it.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

# Here, not where it is used: of threads that import it at the same time, some get an ImportError.
from passlib.hash import sha512_crypt

from chatmaild.common import atomic_files
from chatmaild.common.addresses import is_address

# Where the hash of a blocked address waits.
BLOCKED = "password.blocked"
# The cost of `doveadm pw -s SHA512-CRYPT`, 3 ms; passlib's own default would take 0.4 s a login.
HASH_ROUNDS = 5000
MESSAGE_DIRECTORIES = ("cur", "new", "tmp")


def create(mailboxes_dir: Path, address: str, password: str) -> bool:
    """Create an address; return False when it exists, with whatever password.

    address, password: admissible ones (`addresses.inadmissible`).
    The password file appears complete or not at all, and to one caller only, also when several
    processes race: it is written aside and then linked, which fails where the name is taken.
    Raises OSError.
    """
    home = Path(mailboxes_dir) / address
    try:
        home.mkdir()
        # The filter, in vmail's group, looks for files in it by name and may list nothing.
        home.chmod(0o710)
    except FileExistsError:
        pass
    # Before the password: nobody may see the address without its protection from cleartext.
    (home / "enforceE2EEincoming").touch(mode=0o640)
    hashed = "{SHA512-CRYPT}" + sha512_crypt.using(rounds=HASH_ROUNDS).hash(password)
    try:
        atomic_files.replace(home / "password", hashed, durable=True, exclusive=True)
    except FileExistsError:
        return False
    atomic_files.sync_directory(home.parent)
    return True


def block(home: Path) -> bool:
    """Block the address with this directory; return False if it is blocked already.

    Its last login stays known, so that it expires like any other. Raises OSError, as
    FileNotFoundError when there is no such address.
    """
    password = home / "password"
    status = password.stat()
    if not status.st_size:
        return False
    # What an earlier block may have left: the hash that counts is in `password`.
    (home / BLOCKED).unlink(missing_ok=True)
    os.link(password, home / BLOCKED)
    atomic_files.replace(password, "", times=(status.st_atime_ns, status.st_mtime_ns))
    atomic_files.sync_directory(home)
    return True


def unblock(home: Path) -> bool:
    """Let the address have its old password again; return False if it is not blocked.

    Raises ValueError where the hash was not kept, and OSError.
    """
    if (home / "password").stat().st_size:
        return False
    if not (home / BLOCKED).is_file():
        raise ValueError("its password was not kept by whoever emptied the file: delete it")
    os.rename(home / BLOCKED, home / "password")
    atomic_files.sync_directory(home)
    return True


def is_blocked(home: Path) -> bool:
    """Return whether an address is blocked. Raises FileNotFoundError where there is none."""
    return not (home / "password").stat().st_size


def list_addresses(settings: dict) -> Iterator[str]:
    """Yield all addresses, in no order. Raises OSError."""
    with os.scandir(settings["mailboxes_dir"]) as entries:
        for entry in entries:
            if is_address(entry.name, settings["address_domain"]) and os.path.exists(
                os.path.join(entry.path, "password")
            ):
                yield entry.name


def describe(home: Path) -> dict:
    """Return what there is to know of an address, but for its password.

    `blocked`, `last_login` (the day, UTC, YYYY-MM-DD), `messages` and `bytes` (of all folders, as
    they lie on disk). Raises FileNotFoundError where there is no such address.
    """
    last_login = datetime.datetime.fromtimestamp((home / "password").stat().st_mtime, datetime.UTC)
    sizes = [size for folder in list_folders(home) for size in _list_message_sizes(folder)]
    return {
        "blocked": is_blocked(home),
        "last_login": last_login.date().isoformat(),
        "messages": len(sizes),
        "bytes": sum(sizes),
    }


def list_folders(home: Path) -> list[Path]:
    """Return the directories of a mailbox (Maildir++) that hold `cur`, `new` and `tmp`."""
    return [home, *(path for path in home.iterdir() if path.name.startswith(".") and path.is_dir())]


def _list_message_sizes(folder):
    for name in MESSAGE_DIRECTORIES:
        with contextlib.suppress(OSError), os.scandir(folder / name) as entries:
            for entry in entries:
                # One that a client has just moved or deleted.
                with contextlib.suppress(OSError):
                    yield entry.stat(follow_symlinks=False).st_size
