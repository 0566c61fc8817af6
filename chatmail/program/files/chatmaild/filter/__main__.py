"""The milter service: four sockets for Postfix, one for each role.

Each role is a process, a child of the one that systemd started: what strangers send takes no time
from what users send. When one child ends, the others are stopped too, and systemd starts all of
them again. Until then Postfix answers 451, and mail waits.
"""

import argparse
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from chatmaild.common.errors import OperatorError
from chatmaild.common.journal import start_logging
from chatmaild.common.settings import SETTINGS, load_settings
from chatmaild.common.systemd import notify
from chatmaild.dkim import signing, verifying
from chatmaild.filter import milter_server
from chatmaild.filter.milters import ROLES, SharedState
from chatmaild.metrics import counters

log = logging.getLogger(__name__)

# smtpd and cleanup of Postfix run in a chroot, so the sockets are inside it.
SOCKETS = Path("/var/spool/postfix/chatmail")

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}

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


def start(role: str, shared: SharedState, listener: socket.socket) -> int:
    """Start a child process that serves the role until SIGTERM; return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        counters.start(f"filter-{role}")
        milter_server.serve(listener, lambda: ROLES[role](shared))
    except Exception as error:
        log.critical("%s: %s", role, error)
    finally:
        # Threads of sessions may still run. They must not keep the process alive.
        os._exit(1)


def listen(sockets: Path) -> dict[str, socket.socket]:
    """Return a listening socket for each role. Those of a killed filter are replaced.

    Raises OSError.
    """
    listeners = {}
    for role in ROLES:
        (sockets / role).unlink(missing_ok=True)
        listeners[role] = milter_server.listen(sockets / role)
    return listeners


def run(shared: SharedState, listeners: dict[str, socket.socket]) -> int:
    """Serve all roles until SIGTERM, or until one of them ends. Returns the exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
    # The children share the memory that they do not change. gc.freeze() makes this more.
    gc.freeze()
    children = {start(role, shared, listener): role for role, listener in listeners.items()}
    log.info("answering on %s", ", ".join(each.getsockname() for each in listeners.values()))
    notify("READY=1")
    try:
        status = _wait(children)
        notify("STOPPING=1")
    finally:
        _stop(children)
    return status


def _wait(children: dict[int, str]) -> int:
    """Wait for a signal; return the exit status. A child that has ended is removed."""
    while True:
        if signal.sigwait(SIGNALS) != signal.SIGCHLD:
            return 0
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            code = os.waitstatus_to_exitcode(status)
            log.critical("the milter for %s ended (%d)", children.pop(child), code)
            return 1


def _stop(children: dict[int, str]) -> None:
    """End the children. Postfix answers 451 to the messages that they were checking."""
    for child in children:
        os.kill(child, signal.SIGTERM)
    for child in children:
        os.waitpid(child, 0)


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
        listeners = listen(options.sockets)
    except (OperatorError, OSError, ValueError, KeyError) as error:
        log.critical("not started: %s: %s", type(error).__name__, error)
        return 1
    return run(shared, listeners)


if __name__ == "__main__":
    sys.exit(main())
