"""What a take-over has done, and what it keeps for `undo`, in one directory that only root reads.

journal.json: {"started", "stopped", "done": [steps], "before": {...}}. Times are Unix seconds.
files/: copies of the machine's files, below their own paths.
"""

import json

from chatmaild.adopt import machine
from chatmaild.common import atomic_files, locks
from chatmaild.common.errors import OperatorError

DIRECTORY = "/var/backups/chatmail-adoption"
LOCK = "/run/chatmail-adoption.lock"


def locked():
    """Let one run at a time work. Raises OperatorError while another one does.

    A killed salt-call leaves its program at work.
    """
    path = machine.here(LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    return locks.alone(
        path,
        "another run of chatmail_adopt is at work on this machine: wait until it has ended "
        "(`pgrep -af chatmaild.adopt` shows it), then run this again",
    )


def files():
    """Return the directory of the kept files."""
    return machine.here(DIRECTORY) / "files"


def read():
    """Return the journal, None where no take-over has begun. Raises OperatorError."""
    path = machine.here(DIRECTORY) / "journal.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path} cannot be read: {error}. Restore it from a backup") from None


def write(journal):
    """Write the journal to the disk before the next step begins."""
    directory = machine.here(DIRECTORY)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic_files.replace(directory / "journal.json", json.dumps(journal), durable=True)


def keep(path):
    """Copy a file or directory into the kept files, with owners, modes and times."""
    found = machine.here(path)
    if not found.exists() and not found.is_symlink():
        return
    target = files() / path.lstrip("/")
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # -T: a copy that an interruption left is completed, and not made again inside of itself.
    machine.run("cp", "-aT", str(found), str(target))
