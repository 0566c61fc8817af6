"""The commands of chatmail_relay.health, of chatmail_overview.status, and of Salt's beacon."""

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


def watched(settings: dict) -> dict:
    """Return the figures that the beacon looks at."""
    from chatmaild.health import figures

    return figures.watch(settings)


COMMANDS = {"run": run, "figures": figures, "watched": watched}

if __name__ == "__main__":
    # A program that is told to end still removes its addresses.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    answer(COMMANDS)
