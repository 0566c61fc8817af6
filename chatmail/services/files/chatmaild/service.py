"""What every service of the relay shares: its settings, its log, its word to systemd."""

import json
import logging
import os
import socket
import sys
from pathlib import Path

SETTINGS = Path("/etc/chatmail/relay.json")


def load_settings(path: Path = SETTINGS) -> dict:
    """Return the relay's settings, as `chatmail/settings.py` resolved them.

    path: the JSON file that the converge wrote.
    Raises OSError or ValueError; a service without settings does not start.
    """
    return json.loads(Path(path).read_text())


def start_logging(level: int = logging.INFO) -> None:
    """Log to standard error with the priority prefix that journald reads (sd-daemon(3))."""
    priorities = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}

    class JournalFormatter(logging.Formatter):
        def format(self, record):
            # A newline would start a journal entry of its own, without the priority.
            message = super().format(record).replace("\n", " | ")
            return f"<{priorities[record.levelname]}>{message}"

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def notify(state: str) -> None:
    """Tell systemd a state such as `READY=1` or `STOPPING=1` (sd_notify(3)).

    Does nothing when the service was not started by systemd.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(state.encode(), address)
