"""The commands of the Salt module chatmail_ping."""

import signal
import sys

from chatmaild.common.commands import answer
from chatmaild.ping import mailbox


def send(settings: dict, token: str, domains: list[str], wait: float) -> dict:
    """Send a message to the address of the run at each domain, by each way."""
    from chatmaild.ping import sending

    return sending.send(settings, token, domains, wait)


COMMANDS = {"open": mailbox.open_, "send": send, "seen": mailbox.seen, "close": mailbox.close}

if __name__ == "__main__":
    # A program that is told to end still removes its sender.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    answer(COMMANDS)
