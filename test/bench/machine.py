"""A box of the lab as the figures see it: its verbs, its mailboxes, and what its services use."""

import functools
import json
import os
import re
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from lab.host import STATE

LAB = Path(__file__).parents[1] / "lab" / "lab"
TICKS = os.sysconf("SC_CLK_TCK")
SETTINGS = "/etc/chatmail/relay.json"
OURS = "chatmail-"  # our units begin with it


def lab(*arguments):
    """Run a verb of the lab and return its output; raise RuntimeError when it fails."""
    argv = [str(LAB), *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-2000:]
        raise RuntimeError(f"`lab {' '.join(argv[1:])}` failed: {said}")
    return done.stdout


class Machine:
    """A running box. Its processes and files are seen from this machine, so nothing runs in it."""

    def __init__(self, name):
        """Find the box. Raises RuntimeError when no box of this name runs."""
        self.name = name
        self.pid = next((pid for pid, _ in self.processes() if self.is_first(pid)), None)
        if self.pid is None:
            raise RuntimeError(f"no box {name} runs; `test/lab/lab list` shows the boxes")
        self.domain = json.loads((STATE / name / "box.json").read_text())["domain"]

    def is_first(self, pid):
        """Return whether a process is process 1 of the box."""
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            return re.search(r"^NSpid:.*\t1$", status, re.M) and "Name:\tsystemd\n" in status
        return False

    def processes(self):
        """Yield pid and unit of each process of the box, by its control group."""
        group = re.compile(rf":/chatmail-lab/{re.escape(self.name)}/boot[^\n]*?/payload(/[^\n]*)")
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if found := group.search((directory / "cgroup").read_text()):
                    units = re.findall(r"[^/]+\.(?:service|scope)", found[1])
                    yield int(directory.name), units[-1] if units else "other"

    def cpu(self):
        """Return the CPU seconds of each unit since it started, those of ended children included.

        A process that ended counts for its parent, which is in the same unit.
        """
        used = Counter()
        for pid, unit in self.processes():
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                used[unit] += sum(int(field) for field in fields[11:15]) / TICKS
        return used

    def memory(self, kind="Pss"):
        """Return the PSS of each unit in KB. kind: Pss_Anon leaves out pages of files (proc(5))."""
        used = Counter()
        for pid, unit in self.processes():
            with suppress(OSError):
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                used[unit] += int(re.search(rf"^{kind}: +(\d+)", text, re.M)[1])
        return used

    def settled_memory(self, seconds=60):
        """Return the PSS when it changes by less than 1 % in three seconds, or after `seconds`."""
        deadline = time.monotonic() + seconds
        before = self.memory()
        while time.monotonic() < deadline:
            time.sleep(3)
            now = self.memory()
            if abs(now.total() - before.total()) < before.total() / 100:
                return now
            before = now
        return before

    def path(self, path):
        """Return a path of the box as this machine reaches it."""
        return Path(f"/proc/{self.pid}/root{path}")

    @functools.cached_property
    def mailboxes(self):
        """The directory of the box with a maildir for each address, None where there is none.

        It is that of this formula, or that of chatmail/relay. Other relays have their own ways.
        """
        if self.path(SETTINGS).exists():
            return json.loads(self.path(SETTINGS).read_text())["mailboxes_dir"]
        cmdeploy = f"/home/vmail/mail/{self.domain}"
        return cmdeploy if self.path(cmdeploy).is_dir() else None

    def messages(self, accounts):
        """Return how many messages the mailboxes of these accounts have."""
        top = self.path(self.mailboxes)
        count = 0
        for account in accounts:
            for part in ("new", "cur"):
                with suppress(FileNotFoundError):
                    count += len(os.listdir(top / account.address / part))
        return count

    def ended_services(self):
        """Return the services of the relay that systemd had to start again."""
        shown = self.run(
            "systemctl show -p Id,NRestarts 'chatmail-*' dovecot nginx postfix unbound"
        )
        units = [dict(re.findall(r"(\w+)=(.*)", block)) for block in shown.split("\n\n")]
        return [unit["Id"] for unit in units if unit.get("NRestarts", "0") != "0"]

    def run(self, line):
        """Run a shell line in the box; return its output."""
        return lab("run", self.name, "--", "sh", "-c", line)


def others():
    """Return the names of all boxes that exist; their processes share memory and CPU with ours."""
    return sorted(path.parent.name for path in STATE.glob("*/box.json"))


def difference(after, before):
    """Return what each unit used between two looks, the most first."""
    used = {unit: after[unit] - before[unit] for unit in after}
    return {unit: round(value, 3) for unit, value in sorted(used.items(), key=lambda u: -u[1])}
