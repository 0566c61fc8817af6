"""The milter service: four sockets for Postfix, one for each role.

libmilter serves one socket in a process, so each role is a child of the process that systemd
started. When one child ends, the others are stopped too, and systemd starts all of them again.
Until then Postfix answers 451, and mail waits.
"""

import argparse
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

import Milter

from chatmaild.common.errors import OperatorError
from chatmaild.common.journal import start_logging
from chatmaild.common.settings import SETTINGS, load_settings
from chatmaild.common.systemd import notify
from chatmaild.dkim import signing, verifying
from chatmaild.filter.milters import ROLES, SharedState
from chatmaild.metrics import counters

log = logging.getLogger(__name__)

# smtpd and cleanup of Postfix run in a chroot, so the sockets are inside it.
SOCKETS = Path("/var/spool/postfix/chatmail")

# Each SMTP session opens a connection. All processes of Postfix may connect at the same time.
BACKLOG = 1000
START_SECONDS = 20.0

# glibc returns freed blocks above a threshold to the kernel. By default the threshold grows to the
# largest freed block: after one message of 30 MB, a process keeps 140 MB. With a fixed threshold it
# keeps 9 MB (mallopt(3)).
M_MMAP_THRESHOLD, LARGE_BLOCK = -3, 256 * 1024


def load(settings_file: Path, keys_dir: Path) -> SharedState:
    """Return the state that all sessions share, from the relay's files.

    Raises OperatorError, OSError, ValueError or KeyError.
    """
    settings = load_settings(settings_file)
    if not settings["dkim_required"]:
        return SharedState(settings, None, None)
    return SharedState(settings, signing.KeyRing(keys_dir), verifying.resolver_lookup())


def serve(role: str, shared: SharedState, path: Path) -> None:
    """Answer Postfix on the socket until SIGTERM. The socket of a killed process is replaced."""
    counters.start(f"filter-{role}")
    Milter.factory = lambda: ROLES[role](shared)
    Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS | Milter.CHGFROM | Milter.DELRCPT)
    os.umask(0o117)
    Milter.setbacklog(BACKLOG)
    Milter.runmilter(f"chatmail-{role}", f"unix:{path}")


def start(role: str, shared: SharedState, path: Path) -> int:
    """Start a child process that serves the role; return its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        serve(role, shared, path)
        status = 0
    except Exception as error:
        log.critical("%s: %s", role, error)
    finally:
        # Threads of sessions may still run. They must not keep the process alive.
        os._exit(status)


def accepts(path: Path) -> bool:
    """Return whether a process listens on the socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def run(shared: SharedState, sockets: Path) -> int:
    """Serve all roles until SIGTERM, or until one of them ends. Returns the exit status."""
    paths = {role: sockets / role for role in ROLES}
    for path in paths.values():
        path.unlink(missing_ok=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
    # The children share the memory that they do not change. gc.freeze() makes this more.
    gc.freeze()
    children = {start(role, shared, path): role for role, path in paths.items()}
    try:
        status = _wait(paths, children)
        notify("STOPPING=1")
    finally:
        _stop(paths, children)
    return status


def _wait(paths: dict[str, Path], children: dict[int, str]) -> int:
    """Notify systemd when all sockets accept connections; then wait for a signal.

    Returns the exit status. A child that has ended is removed from `children`.
    """
    ready = False
    deadline = time.monotonic() + START_SECONDS
    while True:
        caught = signal.sigtimedwait(
            {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}, 3600 if ready else 0.02
        )
        if caught and caught.si_signo != signal.SIGCHLD:
            return 0
        if caught:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child:
                code = os.waitstatus_to_exitcode(status)
                log.critical("the milter for %s ended (%d)", children.pop(child), code)
                return 1
        elif not ready and all(accepts(path) for path in paths.values()):
            log.info("answering on %s", ", ".join(map(str, paths.values())))
            notify("READY=1")
            ready = True
        elif not ready and time.monotonic() > deadline:
            log.critical("no socket after %d s", START_SECONDS)
            return 1


def _stop(paths: dict[str, Path], children: dict[int, str]) -> None:
    """End the children. Postfix answers 451 to the messages that they were checking.

    libmilter notices the signal within 5 s, or as soon as a client connects.
    """
    for child in children:
        os.kill(child, signal.SIGTERM)
    for child, role in children.items():
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            accepts(paths[role])
            time.sleep(0.01)


def main(arguments: list[str] | None = None) -> int:
    """Run the service; return the exit status."""
    parser = argparse.ArgumentParser(prog="chatmaild.filter", description=__doc__)
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    parser.add_argument("--keys", type=Path, default=signing.KEYS, help="directory of DKIM keys")
    parser.add_argument("--sockets", type=Path, default=SOCKETS, help="directory of the sockets")
    options = parser.parse_args(arguments)
    start_logging()
    try:
        shared = load(options.settings, options.keys)
    except (OperatorError, OSError, ValueError, KeyError) as error:
        log.critical("not started: %s: %s", type(error).__name__, error)
        return 1
    return run(shared, options.sockets)


if __name__ == "__main__":
    sys.exit(main())
