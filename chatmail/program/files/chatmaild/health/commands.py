"""The commands of the Salt functions chatmail_relay.health and chatmail_overview.status."""

import signal
import sys

from chatmaild.common.commands import answer


def run(settings: dict, offline: bool) -> dict:
    """Ask the relay everything, and leave no trace.

    offline: leave out what asks DNS.
    """
    from chatmaild.health import checking

    return checking.check(settings, offline)


def figures(settings: dict) -> dict:
    """Return the figures that a master shows of each relay."""
    from chatmaild.health import figures

    return figures.find(settings)


COMMANDS = {"run": run, "figures": figures}

if __name__ == "__main__":
    # A program that is told to end still removes its addresses.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    answer(COMMANDS)
