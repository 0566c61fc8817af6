"""A plugin of pytest for mutate.py. It sorts the tests, and gives each a time-out.

MUTATE_DURATIONS names a file with the seconds of each test. If there is no such file, the plugin
measures and writes it. A file beside it has the tests that noticed a mutant, one on a line.
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
# Seconds in addition to ten times the usual time, because the machine may be busy.
PATIENCE = 20


def pytest_configure() -> None:
    """Let hypothesis try the same examples each time, and fail no test for a slow example."""
    hypothesis.settings.register_profile("mutate", deadline=None, derandomize=True)
    hypothesis.settings.load_profile("mutate")


def pytest_collection_modifyitems(items) -> None:
    """Sort the tests: first those that noticed the most mutants, then the quick ones."""
    if USUAL:
        noticed = collections.Counter(NOTICED.read_text().splitlines() if NOTICED.exists() else ())
        items.sort(key=lambda item: (-noticed[item.nodeid], USUAL.get(item.nodeid, 0)))
        for item in items:
            seconds = 10 * USUAL.get(item.nodeid, 0) + PATIENCE
            # A thread ends the process. After a signal, hypothesis would try the example again.
            item.add_marker(pytest.mark.timeout(seconds, method="thread"))


def pytest_runtest_logreport(report) -> None:
    """Add up the times of set-up, call and tear-down, and note a test that noticed a mutant."""
    MEASURED[report.nodeid] += report.duration
    if USUAL and report.failed:
        with NOTICED.open("a") as noticed:
            noticed.write(report.nodeid + "\n")


def pytest_sessionfinish() -> None:
    """Write the measured times."""
    if not USUAL:
        DURATIONS.write_text(json.dumps(MEASURED))
