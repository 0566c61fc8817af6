"""A box as a system container: systemd-nspawn boots the overlay, and nsenter runs commands in it.

vm.py has the same functions, and boxes.py calls those of one of the two.
"""

import contextlib
import os
import re
from pathlib import Path

import network
from host import CLEAN_ENVIRONMENT, LabError, cgroup_roots, children, daemon_pid

BOOT_TIME = 90  # seconds; on an idle machine a boot takes 5


def furnish(_box):
    """Do nothing: a container needs no more files than every box."""


def prepare(_box):
    """Do nothing: the overlay is the file system of a container."""


def bring(_box, _binds):
    """Do nothing: a container sees the directories of this host directly."""


def command(box, binds):
    """Return the command line that boots the box."""
    boot = ["setpriv", "--pdeathsig", "KILL", "nsenter"]
    boot += [f"--net={network.namespace(network.LAB)}"]
    boot += ["systemd-nspawn", "--quiet", "--boot", f"--directory={box.directory}/root"]
    boot += [f"--machine={box.name}", "--register=no", "--keep-unit", "--console=pipe"]
    boot += ["--network-bridge=br0", "--resolv-conf=off", "--timezone=off", "--link-journal=no"]
    # Root of a real machine has it. chatmail/postfix/files/send-at-once needs it.
    boot += ["--capability=CAP_SYS_PTRACE", "--system-call-filter=pidfd_getfd"]
    return boot + [f"--bind-ro={here}:{there}" for here, there in binds]


def running(box):
    """Return the pid on this host of the box's process 1, None while it does not run."""
    keeper = daemon_pid(box.keeper)
    for nspawn in children(keeper) if keeper else []:
        for child in children(nspawn):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{child}/status").read_text()
                # The name counts too: before it executes systemd, the process is still nspawn.
                if re.search(r"^Name:\tsystemd$", status, re.M) and re.search(
                    r"^NSpid:.*\t1$", status, re.M
                ):
                    return child
    return None


def enter_command(box, argv):
    """Return the command line that runs `argv` in the box with a clean environment."""
    pid = running(box)
    if pid is None:
        raise LabError(f"box {box.name} is not running; `lab up {box.name}` boots it again")
    environment = [f"{key}={value}" for key, value in CLEAN_ENVIRONMENT.items()]
    enter = ["nsenter", "--all", f"--target={pid}", "env", "--chdir=/root", "--ignore-environment"]
    return [*enter, *environment, *argv]


def enter_cgroup(box):
    """Move this process into the control group of the box's process 1.

    Salt starts apt by `systemd-run --scope`. On a host whose cgroup2 is mounted with nsdelegate,
    the kernel refuses that in another control group.
    """
    pid = running(box)
    groups = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if pid else []:
        _, controller, path = line.split(":", 2)
        groups[controller] = path.lstrip("/")
    for root in cgroup_roots():
        kind = "name=systemd" if root.name == "systemd" else ""
        with contextlib.suppress(OSError, KeyError):
            (root / groups[kind] / "cgroup.procs").write_text(str(os.getpid()))
