"""The mailbox of an address: a directory with its mail and a few small files.

The file `password` holds the hash of the password. Its modification time is the day of the last
login. An empty `password` blocks the address: Dovecot's Lua refuses each login, and the filter
refuses mail from and to the address.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from pathlib import Path

from chatmaild.accounts.password_hash import sha512_crypt
from chatmaild.common import atomic_files
from chatmaild.common.addresses import is_address

# The file that keeps the hash of a blocked address.
BLOCKED = "password.blocked"
# The filter is in vmail's group. It opens files of an address by name and must not list them.
HOME_MODE = 0o710
MESSAGE_DIRECTORIES = ("cur", "new", "tmp")


def create(mailboxes_dir: Path, address: str, password: str) -> bool:
    """Create an address; return False when it exists already, with any password.

    address, password: values that `addresses.inadmissible` accepts.
    When several processes create the same address at once, one of them gets True. A reader never
    sees a part of the password file: link(2) gives the complete file its name, and fails when the
    name exists. Raises OSError.
    """
    home = Path(mailboxes_dir) / address
    try:
        home.mkdir()
        home.chmod(HOME_MODE)
    except FileExistsError:
        pass
    # This file comes before the password, so the address never exists without its protection from
    # unencrypted mail.
    (home / "enforceE2EEincoming").touch(mode=0o640)
    hashed = "{SHA512-CRYPT}" + sha512_crypt(password)
    try:
        atomic_files.replace(home / "password", hashed, durable=True, exclusive=True)
    except FileExistsError:
        return False
    atomic_files.sync_directory(home.parent)
    return True


def block(home: Path) -> bool:
    """Block the address of this directory; return False if it is blocked already.

    The time of the last login stays, so that a blocked address expires like any other address.
    Raises FileNotFoundError when the address does not exist, and other OSErrors.
    """
    password = home / "password"
    status = password.stat()
    if not status.st_size:
        return False
    # An earlier block may have left this file. The hash in `password` is the valid one.
    (home / BLOCKED).unlink(missing_ok=True)
    os.link(password, home / BLOCKED)
    atomic_files.replace(password, "", times=(status.st_atime_ns, status.st_mtime_ns))
    atomic_files.sync_directory(home)
    return True


def unblock(home: Path) -> bool:
    """Give the address its old password again; return False if it is not blocked.

    Raises ValueError when the old hash does not exist any more, and OSError.
    """
    if (home / "password").stat().st_size:
        return False
    if not (home / BLOCKED).is_file():
        raise ValueError(
            "its password file is empty, and no `password.blocked` is beside it: delete the address"
        )
    os.rename(home / BLOCKED, home / "password")
    atomic_files.sync_directory(home)
    return True


def is_blocked(home: Path) -> bool:
    """Return whether an address is blocked. Raises FileNotFoundError when it does not exist."""
    return not (home / "password").stat().st_size


def list_addresses(settings: dict) -> Iterator[str]:
    """Yield all addresses, unsorted. Raises OSError."""
    with os.scandir(settings["mailboxes_dir"]) as entries:
        for entry in entries:
            if is_address(entry.name, settings["address_domain"]) and os.path.exists(
                os.path.join(entry.path, "password")
            ):
                yield entry.name


def describe(home: Path) -> dict:
    """Return what the files of an address say, except its password.

    home: the directory of the address.
    A dictionary: `blocked`, `last_login` (the day in UTC, YYYY-MM-DD), `messages` and `bytes` (all
    folders, sizes on disk). Raises FileNotFoundError when the address does not exist.
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
    """Return the directories of a mailbox (Maildir++) that contain `cur`, `new` and `tmp`."""
    return [home, *(path for path in home.iterdir() if path.name.startswith(".") and path.is_dir())]


def _list_message_sizes(folder):
    for name in MESSAGE_DIRECTORIES:
        with contextlib.suppress(OSError), os.scandir(folder / name) as entries:
            for entry in entries:
                # A client may move or delete the message at this moment.
                with contextlib.suppress(OSError):
                    yield entry.stat(follow_symlinks=False).st_size
