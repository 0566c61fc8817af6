"""Makes trees of mailboxes for the tests and the benchmark of retention, and runs it on them."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "chatmail/program/files/chatmaild"
DOMAIN = "chat.example.org"
DAY = 86400
KIB = 1024


def settings_for(mailboxes_dir, **changes):
    """Return the settings that expiry reads, with their defaults."""
    settings = {
        "mailboxes_dir": str(mailboxes_dir),
        "address_domain": DOMAIN,
        "delete_mails_after": 20,
        "delete_large_after": 7,
        "delete_inactive_users_after": 90,
        "max_mailbox_size": 500 * KIB * KIB,
    }
    return settings | changes


def write_message(directory, arrival, *, serial=0, size=None, disk=4000, mtime=None, flags=":2,S"):
    """Put a sparse message into a message directory. Return its path.

    arrival: Unix seconds, for the name. size: bytes, for `S=` in the name; None: no `S=`.
    disk: bytes of the file. mtime: Unix seconds, for the file; None: the arrival.
    """
    name = f"{int(arrival)}.M{serial:06d}P42.relay"
    if size is not None:
        name += f",S={size},W={size + 50}"
    path = os.path.join(directory, name + flags)
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.ftruncate(fd, disk)
    mtime = arrival if mtime is None else mtime
    os.utime(fd, (mtime, mtime))
    os.close(fd)
    return path


def make_mailbox(top, name, *, login, folders=("",), password=True):
    """Make a mailbox as Dovecot and chatmail-accounts make it. Return its path.

    login: mtime of `password`, in Unix seconds. folders: "" for INBOX, `.Name` for others.
    """
    mailbox = os.path.join(top, name)
    for folder in folders:
        for sub in ("cur", "new", "tmp"):
            os.makedirs(os.path.join(mailbox, folder, sub))
    for file in ("enforceE2EEincoming", "dovecot-uidlist", "maildirsize"):
        Path(mailbox, file).touch()
    if password:
        path = os.path.join(mailbox, "password")
        Path(path).write_text("{SHA512-CRYPT}$6$x", encoding="ascii")
        os.utime(path, (login, login))
    return mailbox


def build_tree(top, mailboxes, messages, now, seed=1):
    """Make `mailboxes` mailboxes with `messages` messages each, of every age and size.

    One mailbox in fifty had no login for too long. One in a hundred is over its quota by the sizes
    in `S=`, while the files are sparse. One in twenty has a second folder. All this is by chance.
    """
    chance = random.Random(seed)
    os.makedirs(top)
    for number in range(mailboxes):
        prefix = "ci-" if chance.random() < 0.1 else "u"
        days = chance.randint(91, 200) if chance.random() < 0.02 else chance.randint(0, 80)
        full = chance.random() < 0.01
        folders = ("", ".DeltaChat") if chance.random() < 0.05 else ("",)
        mailbox = make_mailbox(
            top, f"{prefix}{number:08d}@{DOMAIN}", login=now - days * DAY, folders=folders
        )
        for serial in range(messages):
            # Each age ends with half an hour, so no message reaches a limit during the test.
            arrival = now - chance.randrange(25 * 24) * 3600 - 1800
            disk = 300_000 if chance.random() < 0.05 else chance.randint(1000, 20_000)
            size = chance.randint(60, 100) * KIB * KIB if full else disk + disk // 3
            place = os.path.join(mailbox, chance.choice(folders), chance.choice(("cur", "new")))
            write_message(place, arrival, serial=serial, size=size, disk=disk)


def run_program(config, command, *options, user=None, sample=False):
    """Run the command line. Return its result, and with `sample` the peak of its memory in MiB.

    user: the uid to run as; None: the uid of this process.
    """
    # Another user may be unable to read this checkout, so the program runs from a copy.
    copies = Path(config).parent / "program"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, copies / "chatmaild", ignore=ignored, dirs_exist_ok=True)
    python = os.path.realpath(sys.executable)
    program = subprocess.Popen(
        [python, "-m", "chatmaild.retention", command, "--config", str(config), "--json", *options],
        cwd="/",
        env={"PYTHONPATH": str(copies), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        user=user,
        extra_groups=None if user is None else [],
    )
    peak = 0
    while sample and program.poll() is None:
        peak = max(peak, memory_of(program.pid))
        time.sleep(0.02)
    output, _ = program.communicate()
    if program.returncode:
        raise RuntimeError(f"{command} ended with status {program.returncode}")
    return json.loads(output), peak / KIB


def memory_of(pid):
    """Return the memory of a process and its children in KiB. Shared pages count only once."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:  # the process has just ended
        return 0
    own = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return own + sum(memory_of(int(child)) for child in children)
