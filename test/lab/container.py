"""A box as a system container: systemd-nspawn on the overlay, entered through its namespaces.

The same functions as in vm.py; boxes.py asks one or the other.
"""

import contextlib
import os
import re
from pathlib import Path

import network
from host import CLEAN_ENVIRONMENT, LabError, cgroup_roots, children, daemon_pid

BOOT_TIME = 90  # seconds, of which 5 are usual on an idle machine


def furnish(_box):
    """Nothing beyond what every box has."""


def prepare(_box):
    """Nothing: the overlay is its file system."""


def bring(_box, _binds):
    """Nothing: it sees this host's directories themselves."""


def command(box, binds):
    """The command line that boots the box."""
    boot = ["setpriv", "--pdeathsig", "KILL", "nsenter"]
    boot += [f"--net={network.namespace(network.LAB)}"]
    boot += ["systemd-nspawn", "--quiet", "--boot", f"--directory={box.directory}/root"]
    boot += [f"--machine={box.name}", "--register=no", "--keep-unit", "--console=pipe"]
    boot += ["--network-bridge=br0", "--resolv-conf=off", "--timezone=off", "--link-journal=no"]
    return boot + [f"--bind-ro={here}:{there}" for here, there in binds]


def running(box):
    """The pid, on this host, of the box's own process 1; None while there is none."""
    keeper = daemon_pid(box.keeper)
    for nspawn in children(keeper) if keeper else []:
        for child in children(nspawn):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{child}/status").read_text()
                # Its name too: before it executes systemd it is still nspawn.
                if re.search(r"^Name:\tsystemd$", status, re.M) and re.search(
                    r"^NSpid:.*\t1$", status, re.M
                ):
                    return child
    return None


def enter_command(box, argv):
    """The command line that runs `argv` in the box with a clean environment."""
    pid = running(box)
    if pid is None:
        raise LabError(f"box {box.name} is not running; `lab up {box.name}` boots it anew")
    environment = [f"{key}={value}" for key, value in CLEAN_ENVIRONMENT.items()]
    enter = ["nsenter", "--all", f"--target={pid}", "env", "--chdir=/root", "--ignore-environment"]
    return [*enter, *environment, *argv]


def enter_cgroup(box):
    """Move this process to where the box's process 1 is.

    From elsewhere `systemd-run --scope`, which Salt starts apt with, is refused on a host whose
    cgroup2 is mounted with nsdelegate.
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
