"""The command of the Salt function chatmail_relay.health."""

import signal
import sys

from chatmaild.common.commands import answer


def run(settings: dict, offline: bool) -> dict:
    """Ask the relay everything, and leave no trace.

    offline: leave out what asks DNS.
    """
    from chatmaild.health import checking

    return checking.check(settings, offline)


COMMANDS = {"run": run}

if __name__ == "__main__":
    # A program that is told to end still removes its addresses.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    answer(COMMANDS)
