"""The mail of an archive, which has mail only if the operator asked for it.

Dovecot's lists of numbers (dovecot-uidlist) stay out. After the backup Dovecot gives further
numbers. If it gave the same numbers a second time, clients would miss the second messages. Without
the lists it numbers all messages anew, and clients notice that.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from chatmaild.accounts import mailboxes
from chatmaild.backup import addresses
from chatmaild.backup.archive import CHUNK
from chatmaild.common import atomic_files
from chatmaild.common.addresses import is_address

# mail/ADDRESS/FOLDER/cur/NAME; the folder of the inbox is "inbox", another one begins with a dot.
NAME = re.compile(
    r"mail/(?P<address>[^/]+)/(?P<folder>inbox|\.[^/]+)/(?:(?P<place>cur|new)/)?(?P<name>[^/]+)",
    re.DOTALL,
)
# Files of a folder beside its messages: the meaning of flags, and the folders a client shows.
OTHER_FILES = ("dovecot-keywords", "maildirfolder", "subscriptions")


def put_all(settings: dict, names: list[str], put: Callable) -> int:
    """Put the mail of addresses into an archive; return the number of messages.

    put: the function of `archive.encrypt`. Runs with the rights of the mail's user.
    """
    count = 0
    for address in names:
        home = Path(settings["mailboxes_dir"]) / address
        with contextlib.suppress(FileNotFoundError):
            for folder in mailboxes.list_folders(home):
                shown = "inbox" if folder == home else folder.name
                prefix = f"mail/{address}/{shown}"
                for name in OTHER_FILES:
                    _put(put, f"{prefix}/{name}", folder / name)
                count += _put_messages(put, prefix, folder)
    return count


def _put_messages(put, prefix, folder):
    """Put each message of a folder into the archive once; return their number.

    A client moves messages from `new` to `cur` and renames them there, when it sets a flag. The
    part of the name before the colon stays. So `new` comes first, and a second look finds what was
    renamed during the first one.
    """
    seen = set()
    for place in ("new", "cur", "new", "cur"):
        try:
            names = sorted(os.listdir(folder / place))
        except FileNotFoundError:
            continue
        for name in names:
            base = name.partition(":")[0]
            wanted = base and base not in seen and not name.startswith(".")
            if wanted and _put(put, f"{prefix}/{place}/{name}", folder / place / name):
                seen.add(base)
    return len(seen)


def _put(put, name, path):
    """Put a file into the archive; return whether it is there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        put(name, file, size=status.st_size, mtime=int(status.st_mtime))
    return True


def address_of(name: str, address_domain: str) -> str | None:
    """Return the address to whose mail a member belongs, None when it is no mail."""
    found = NAME.fullmatch(name)
    if not found or not is_address(found["address"], address_domain):
        return None
    if found["folder"] == ".." or "\0" in name or found["name"] in (".", ".."):
        return None
    return found["address"] if found["place"] or found["name"] in OTHER_FILES else None


def place(settings: dict, address: str, member, content) -> bool:
    """Bring a message back, or a file beside it; return whether it was missing.

    member: a TarInfo whose name belongs to the address, as `address_of` says. The mail of an
    address that exists stays as it is. The modification time returns, because retention goes by
    it. Runs with the rights of the mail's user.
    """
    if addresses.exists(settings, address):
        return False
    found = NAME.fullmatch(member.name)
    home = addresses.make_home(settings, address)
    folder = home if found["folder"] == "inbox" else home / found["folder"]
    for each in (folder, *(folder / name for name in mailboxes.MESSAGE_DIRECTORIES)):
        with contextlib.suppress(FileExistsError):
            each.mkdir(mode=0o700)
    path = folder / (found["place"] or "") / found["name"]
    draft = folder / "tmp" / f"{atomic_files.DRAFT_PREFIX}restore"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        shutil.copyfileobj(content, file, CHUNK)
    os.utime(draft, (member.mtime, member.mtime))
    os.replace(draft, path)
    return True
