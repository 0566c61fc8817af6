"""The mailboxes of a machine of cmdeploy: what they hold, and the little that has to change.

The user vmail owns this tree, and this code runs as root. So it follows no link, and opens nothing
but regular files and directories: a named pipe would make it wait for ever.
"""

import contextlib
import json
import os
import re
import shutil
import stat
from pathlib import Path

from chatmaild.adopt import journal, machine
from chatmaild.common import atomic_files
from chatmaild.common.addresses import is_address

PENDING = "pending_notifications"
# chatmail-accounts reads its pending notifications here (metadata/service.py, PENDING).
OUR_PENDING = "/var/lib/chatmail-metadata/pending"
# No file that is read here is larger, or the rest of it does not matter.
READ_BYTES = 1 << 20
# The filter is in vmail's group. It opens files of a mailbox by name and must not list them.
MODE = 0o710


def walk(directory):
    """Yield the path of each directory with an @ in its name, links left out."""
    with contextlib.suppress(FileNotFoundError), os.scandir(machine.here(directory)) as entries:
        for entry in entries:
            if "@" in entry.name and entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)


def _read(path):
    """Return the text of a file, None where there is none, or something else than a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return file.read(READ_BYTES).decode(errors="replace")


def count(directory, domain):
    """Return numbers about the mailboxes of a relay. No address is in them.

    {"addresses", "without_password", "unusable", "foreign_hashes", "unprotected", "old_tokens",
    "raw_logs", "notifications"}. without_password: directories of no address. unusable: names that
    the relay does not accept. foreign_hashes: no hash that Dovecot knows. unprotected: without
    `enforceE2EEincoming`. old_tokens: token lists of the old form. raw_logs: recorded IMAP
    sessions.
    """
    names = ("addresses", "without_password", "unusable", "foreign_hashes", "unprotected")
    found = dict.fromkeys((*names, "old_tokens", "raw_logs"), 0)
    address_domain = f"[{domain}]" if machine.is_ip(domain) else domain
    for home in walk(directory):
        content = _read(home / "password")
        if content is None:
            found["without_password"] += 1
            continue
        found["addresses"] += 1
        found["unusable"] += not is_address(home.name, address_domain)
        # An empty file blocks the address, on both sides.
        found["foreign_hashes"] += bool(content) and not re.match(r"\{[\w.-]+\}\S", content)
        found["unprotected"] += not (home / "enforceE2EEincoming").exists()
        found["old_tokens"] += _has_old_tokens(home)
        found["raw_logs"] += sum(name.endswith((".in", ".out")) for name in os.listdir(home))
    found["notifications"] = sum(1 for _ in _list_pending(directory))
    return found


def _has_old_tokens(home):
    try:
        return isinstance(json.loads(_read(home / "metadata.json"))["devicetoken"], list)
    except (ValueError, KeyError, TypeError):
        return False


def open_for_filter(directory):
    """Let the filter see which addresses exist, as it does with addresses that the relay makes.

    A directory without a password is opened, too, because a login may give it one.
    """
    for home in walk(directory):
        descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, MODE)
        finally:
            os.close(descriptor)


def _list_pending(directory):
    """Yield (path, address, seconds, token) of each notification that is complete."""
    pending = machine.here(directory) / PENDING
    if pending.is_symlink() or not pending.is_dir():
        return
    for path in sorted(pending.iterdir()):
        parts = (_read(path) or "").rstrip("\n").split("\n")
        if len(parts) == 3 and not path.name.endswith(".tmp") and parts[1].isdigit():
            yield path, parts[0], int(parts[1]), parts[2]


def move_notifications(directory, owner):
    """Hand the pending notifications to chatmail-accounts, and keep the old files for `undo`.

    owner: the numbers of user and group of vmail.
    """
    ours = machine.here(OUR_PENDING)
    for made in (ours.parent, ours):
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(made, *owner)
    journal.keep(f"{directory}/{PENDING}")
    for path, address, seconds, token in _list_pending(directory):
        content = {"address": address, "token": token, "first_try": seconds}
        # With the same name, an interrupted run that goes on wakes no device twice.
        atomic_files.replace(ours / path.name, json.dumps(content), owner=owner)
    shutil.rmtree(machine.here(directory) / PENDING, ignore_errors=True)
