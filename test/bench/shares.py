"""Shares of the CPU for the units of a box, as systemd gives them on a machine of its own.

On a host with cgroup2 systemd in the box does it. A box on a host whose CPU controller belongs to
the first version of cgroups cannot, and without shares a service of one process gets little beside
the many processes of Postfix. So this module makes the groups from outside.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

CONTROLLER = Path("/sys/fs/cgroup/cpu")  # cgroups of the first version only
TOP = CONTROLLER / "chatmail-bench"
DEFAULT = 100  # CPUWeight= of a unit that does not name it, systemd.resource-control(5)


def share(machines):
    """Put the processes of each unit of the boxes, and this process, into a group each.

    A process that starts later is in the group of its parent. The weights are those of CPUWeight=.
    """
    if not (CONTROLLER / "cgroup.procs").exists():
        return
    join("client", DEFAULT, os.getpid())
    for machine in machines:
        processes = list(machine.processes())
        units = {unit for _, unit in processes if unit.endswith(".service")}
        shown = machine.run(f"systemctl show --property Id,CPUWeight {' '.join(sorted(units))}")
        weights = weights_in(shown)
        for pid, unit in processes:
            join(f"{machine.name}/{unit}", weights.get(unit, DEFAULT), pid)


def weights_in(shown):
    """Return {unit: weight} of the units that have a weight, from what systemctl shows."""
    weights = {}
    for block in shown.split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if re.fullmatch(r"\d+", fields.get("CPUWeight", "")):
            weights[fields["Id"]] = int(fields["CPUWeight"])
    return weights


def join(name, weight, pid):
    """Move a process into a group of this weight, unless it has ended."""
    group = TOP / name
    group.mkdir(parents=True, exist_ok=True)
    # 1024 shares are the weight of 100.
    (group / "cpu.shares").write_text(str(max(2, weight * 1024 // DEFAULT)))
    with suppress(ProcessLookupError):
        (group / "cgroup.procs").write_text(str(pid))


def unshare():
    """Move all processes back, and remove the groups."""
    for group in sorted((*TOP.rglob("*/"), TOP), reverse=True):
        if group.is_dir():
            for pid in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    (CONTROLLER / "cgroup.procs").write_text(pid)
            group.rmdir()
