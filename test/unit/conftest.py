"""What every test of the services needs."""

import pytest
from chatmaild.metrics import counters

COUNTED = {
    (counter.name, labels)
    for counter in counters.COUNTERS
    for series in counter.series.values()
    for labels in series
}


@pytest.fixture(autouse=True)
def counts(monkeypatch):
    """What the test has counted; a name or a label's value that no table lists fails it."""
    found = []

    def count(name, *labels):
        assert (name, labels) in COUNTED
        found.append((name, *labels))

    monkeypatch.setattr(counters, "count", count)
    return found
