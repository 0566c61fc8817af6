"""The end of the IMAP sessions of an address. Only root may ask doveadm and end the processes."""

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from chatmaild.common.errors import OperatorError

# doveadm(1) has this exit status when Dovecot does not run (EX_TEMPFAIL, sysexits.h).
NOT_RUNNING = 75
# The seconds in which all sessions must end. They need a fraction of a second.
DISCONNECT_SECONDS = 10


def disconnect(address: str, wake: Callable[[], None]) -> int:
    """End the IMAP sessions of a blocked address; return how many there were.

    wake: a function that makes Dovecot move each hibernated client into a process of its own.
    Raises OperatorError when a session does not end.

    `doveadm kick` is not used. In 2.3 it refuses a hibernated client, which shares a process with
    clients of other addresses. In 2.4.1 the process anvil uses a whole CPU after it, as soon as
    imap-hibernate ends. So hibernated clients are woken, and their processes are ended. The filter
    refuses messages in an open SMTP session of a blocked address.
    """
    pids = first = _list_sessions(address)
    deadline = time.monotonic() + DISCONNECT_SECONDS
    while pids:
        live = [pid for pid in pids if _read_process_name(pid) == "imap"]
        for pid in live:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if not live:
            wake()
        pids = _list_sessions(address)
        if time.monotonic() > deadline:
            raise OperatorError(
                f"{len(pids)} sessions of {address} are still open: `systemctl restart dovecot` "
                "ends the sessions of all addresses"
            )
    return len(first)


def _list_sessions(address: str) -> list[int]:
    """Return the process id of each IMAP session of an address."""
    done = subprocess.run(
        ["doveadm", "who", "-1", "--", address], capture_output=True, text=True, check=False
    )
    if done.returncode == NOT_RUNNING:
        return []
    if done.returncode:
        raise OperatorError(f"doveadm who: {done.stderr.strip()}")
    # The lines after the titles are: address, protocol, process id, IP address.
    return [int(line.split()[2]) for line in done.stdout.splitlines()[1:]]


def _read_process_name(pid: int) -> str | None:
    """Return the name of a process, None when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Give this process the rights of a user within a `with` block.

    Root must not follow links in directories of that user.
    """
    found = pwd.getpwnam(user)
    before, group, groups = os.geteuid(), os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(found.pw_gid)
    os.seteuid(found.pw_uid)
    try:
        yield
    finally:
        os.seteuid(before)
        os.setegid(group)
        os.setgroups(groups)
