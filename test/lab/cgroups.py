"""The control groups of a box. They show which processes belong to it."""

import contextlib
import os
import signal

from host import await_condition, cgroup_roots


def of(name):
    """Return the top control group of a box in each hierarchy."""
    return [root / "chatmail-lab" / name for root in cgroup_roots()]


def join(path):
    """Make a control group below the lab's, and move this process into it."""
    for group in of(path):
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.procs").write_text(str(os.getpid()))


def clear(name):
    """End the processes in a box's control groups, and remove the groups. "" means all boxes."""
    for top in of(name):
        for pid in members(top):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await_condition(lambda top=top: not members(top), 10, f"the end of all processes of {name}")
        for group in sorted(top.rglob("*/"), reverse=True):
            if group.is_dir():
                group.rmdir()
        if top.is_dir():
            top.rmdir()


def members(top):
    """Return the pids in a control group and in the groups below it."""
    pids = set()
    for path in top.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            pids.update(int(pid) for pid in path.read_text().split())
    return pids - {0}
