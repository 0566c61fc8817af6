"""A tree of mailboxes for the tests of expiry, and its benchmark.

Run as a program, this makes the tree, looks at it with the module and with a plain walk, removes
what is due, and prints time and memory. Its status tells whether both are within what is asked:

    python3 test/bench/expire_tree.py --mailboxes 100000 --directory /var/tmp
"""

import argparse
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

MODULE = Path(__file__).parents[2] / "_modules" / "chatmail_expire.py"
DOMAIN = "chat.example.org"
DAY = 86400
KIB = 1024
FACTOR = 2  # times as fast as a plain walk
MEMORY = 64  # MiB at most, all processes together


def load_module():
    """Import the module under test from its file, as Salt's loader does."""
    name = "chatmail_expire"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, MODULE)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def settings_for(mailboxes_dir, **changes):
    """Return what expiry reads of the relay's settings, with the contract's defaults."""
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
    """Put a sparse message into a message directory; return its path.

    arrival: Unix seconds, as in the name. size: that of `S=`, none without.
    disk: bytes of the file. mtime: that of the file, the arrival if not given.
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
    """Make a mailbox as Dovecot and the accounts service leave it; return its path.

    login: mtime of `password`, Unix seconds. folders: "" for INBOX, `.Name` for others.
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

    About one in fifty is past its login limit, one in a hundred is over its quota (S= says so; the
    files are sparse), one in twenty has a second folder.
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
            # Half past the hour: no age comes to a limit while the tree is made and looked at.
            arrival = now - chance.randrange(25 * 24) * 3600 - 1800
            disk = 300_000 if chance.random() < 0.05 else chance.randint(1000, 20_000)
            size = chance.randint(60, 100) * KIB * KIB if full else disk + disk // 3
            place = os.path.join(mailbox, chance.choice(folders), chance.choice(("cur", "new")))
            write_message(place, arrival, serial=serial, size=size, disk=disk)


def plain_walk(top):
    """Look at every file's size and time in the plainest way; return their number."""
    seen = 0
    for directory, _, files in os.walk(top):
        for file in files:
            os.stat(os.path.join(directory, file))
            seen += 1
    return seen


def timed(work):
    """Return the seconds that a call took, and what it gave back."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def run_program(config, command, *options, user=None, sample=False):
    """Run the command line; return its result, and its memory's peak in MiB if `sample`.

    user: the uid to run as, this process's own if not given.
    """
    # Another user may not see this checkout and its environment; the program needs neither.
    module = shutil.copy(MODULE, Path(config).parent)
    python = os.path.realpath(sys.executable)
    program = subprocess.Popen(
        [python, module, command, "--config", str(config), "--json", *options],
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
    """Return the KiB that a process and its children hold, pages that they share counted once."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:  # it has just ended
        return 0
    own = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return own + sum(memory_of(int(child)) for child in children)


def main():
    """Make the tree, measure, remove it; return the exit status."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--mailboxes", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=10, help="in each mailbox")
    parser.add_argument(
        "--repeat", type=int, default=5, help="times each, in turn; the best counts"
    )
    parser.add_argument("--directory", help="where to make the tree")
    options = parser.parse_args()
    work = tempfile.mkdtemp(prefix="expire-", dir=options.directory)
    try:
        return measure(work, options.mailboxes, options.messages, options.repeat)
    finally:
        shutil.rmtree(work)


def measure(work, mailboxes, messages, repeat):
    """Print the figures for one tree; return 1 if it is too slow or takes too much memory."""
    top, config = os.path.join(work, "mail"), os.path.join(work, "relay.json")
    Path(config).write_text(json.dumps(settings_for(top)), encoding="utf-8")
    seconds, _ = timed(lambda: build_tree(top, mailboxes, messages, time.time()))
    print(f"made {mailboxes} mailboxes, {mailboxes * messages} messages in {seconds:.0f} s")
    walk, looks = time_in_turn(top, config, repeat)
    factors = {name: walk / seconds for name, seconds in looks.items()}
    print(f"plain walk and stat of all files: {walk:.2f} s (the best of {repeat})")
    for name, seconds in looks.items():
        print(f"{name}: {seconds:.2f} s, {factors[name]:.2f} times as fast")
    dry, _ = run_program(config, "run", "--dry-run")
    seconds, (done, memory) = timed(lambda: run_program(config, "run", sample=True))
    print(f"run: {seconds:.2f} s; removed {done['removed']}")
    print(f"memory at its peak: {memory:.0f} MiB, all processes together")
    print(f"announced as removed: {done['removed'] == dry['removed']}")
    return int(min(factors.values()) < FACTOR or not 0 < memory < MEMORY)


def time_in_turn(top, config, repeat):
    """Return the least seconds of a plain walk, and of the looks that remove nothing by name."""
    looks = {"report": ("report",), "dry run": ("run", "--dry-run")}
    walks, seconds = [], {name: [] for name in looks}
    for _ in range(repeat):  # whatever else this machine does should not meet just one of them
        walks.append(timed(lambda: plain_walk(top))[0])
        for name, command in looks.items():
            seconds[name].append(timed(partial(run_program, config, *command))[0])
    return min(walks), {name: min(times) for name, times in seconds.items()}


if __name__ == "__main__":
    sys.exit(main())
