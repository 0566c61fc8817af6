"""A plugin of pytest for mutate.py: the tests that notice most first, and a time-out for each.

MUTATE_DURATIONS names a file with the seconds that each test takes. Where there is none yet, the
plugin measures and writes it. Beside it stands which test noticed a mutant, one on a line.
"""

import collections
import json
import os
from pathlib import Path

import hypothesis
import pytest

DURATIONS = Path(os.environ["MUTATE_DURATIONS"])
USUAL = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else None
NOTICED = DURATIONS.with_suffix(".noticed")
MEASURED = collections.Counter()
# Seconds beyond ten times the usual ones: the machine may be busy.
PATIENCE = 20


def pytest_configure() -> None:
    """Try the same examples each time, and fail none of them for being slow."""
    hypothesis.settings.register_profile("mutate", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("mutate")


def pytest_collection_modifyitems(items) -> None:
    """Sort, so that most mutants are noticed within seconds: a test that did so, a quick one."""
    if USUAL:
        noticed = collections.Counter(NOTICED.read_text().splitlines() if NOTICED.exists() else ())
        items.sort(key=lambda item: (-noticed[item.nodeid], USUAL.get(item.nodeid, 0)))
        for item in items:
            seconds = 10 * USUAL.get(item.nodeid, 0) + PATIENCE
            # By a thread, which ends all: hypothesis would try what took no end again and again.
            item.add_marker(pytest.mark.timeout(seconds, method="thread"))


def pytest_runtest_logreport(report) -> None:
    """Add up set-up, call and tear-down; note who noticed something."""
    MEASURED[report.nodeid] += report.duration
    if USUAL and report.failed:
        with NOTICED.open("a") as noticed:
            noticed.write(report.nodeid + "\n")


def pytest_sessionfinish() -> None:
    """Write what was measured."""
    if not USUAL:
        DURATIONS.write_text(json.dumps(MEASURED))
