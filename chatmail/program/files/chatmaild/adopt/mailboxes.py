"""The mailboxes of a machine of cmdeploy: what they hold, and the little that has to change."""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

from chatmaild.adopt import journal, machine
from chatmaild.common import atomic_files
from chatmaild.common.addresses import is_address

PENDING = "pending_notifications"
# chatmail-metadata reads its pending notifications here.
OUR_PENDING = "/var/lib/chatmail-metadata"
# The filter is in vmail's group. It opens files of a mailbox by name and must not list them.
MODE = 0o710


def walk(directory):
    """Yield the path of each mailbox: a directory with an @ in its name and a file `password`."""
    with contextlib.suppress(FileNotFoundError), os.scandir(machine.here(directory)) as entries:
        for entry in entries:
            if "@" in entry.name and entry.is_dir(follow_symlinks=False):
                path = Path(entry.path)
                if (path / "password").is_file():
                    yield path


def count(directory, domain):
    """Return numbers about the mailboxes of a relay. No address is in them.

    {"addresses", "unusable", "foreign_hashes", "unprotected", "old_tokens", "raw_logs",
    "notifications"}. unusable: names that the relay does not accept. foreign_hashes: no hash that
    Dovecot knows. unprotected: without `enforceE2EEincoming`. old_tokens: token lists of the old
    form. raw_logs: recorded IMAP sessions.
    """
    names = ("addresses", "unusable", "foreign_hashes", "unprotected", "old_tokens", "raw_logs")
    found = dict.fromkeys(names, 0)
    address_domain = f"[{domain}]" if machine.is_ip(domain) else domain
    for home in walk(directory):
        found["addresses"] += 1
        found["unusable"] += not is_address(home.name, address_domain)
        # An empty file blocks the address, on both sides.
        content = (home / "password").read_text(errors="replace")
        found["foreign_hashes"] += bool(content) and not re.match(r"\{[\w.-]+\}\S", content)
        found["unprotected"] += not (home / "enforceE2EEincoming").exists()
        found["old_tokens"] += _has_old_tokens(home)
        found["raw_logs"] += sum(name.endswith((".in", ".out")) for name in os.listdir(home))
    found["notifications"] = sum(1 for _ in _list_pending(directory))
    return found


def _has_old_tokens(home):
    try:
        return isinstance(json.loads((home / "metadata.json").read_text())["devicetoken"], list)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def open_for_filter(directory):
    """Let the filter see which addresses exist, as it does with addresses that the relay makes."""
    for home in walk(directory):
        home.chmod(MODE)


def _list_pending(directory):
    """Yield (path, address, seconds, token) of each notification that is complete."""
    with contextlib.suppress(FileNotFoundError):
        for path in sorted((machine.here(directory) / PENDING).iterdir()):
            parts = path.read_text(errors="replace").rstrip("\n").split("\n")
            if len(parts) == 3 and not path.name.endswith(".tmp") and parts[1].isdigit():
                yield path, parts[0], int(parts[1]), parts[2]


def move_notifications(directory, owner):
    """Hand the pending notifications to chatmail-metadata, and keep the old files for `undo`.

    owner: the numbers of user and group of vmail.
    """
    ours = machine.here(OUR_PENDING)
    ours.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(ours, *owner)
    journal.keep(f"{directory}/{PENDING}")
    for path, address, seconds, token in _list_pending(directory):
        content = {"address": address, "token": token, "first_try": seconds}
        # With the same name, an interrupted run that goes on wakes no device twice.
        atomic_files.replace(ours / path.name, json.dumps(content), owner=owner)
    shutil.rmtree(machine.here(directory) / PENDING, ignore_errors=True)
