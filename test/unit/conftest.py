"""Fixtures for all tests of the services."""

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
    """Return the counts of the test. A name or label that no table lists fails the test."""
    found = []

    def count(name, *labels):
        assert (name, labels) in COUNTED
        found.append((name, *labels))

    monkeypatch.setattr(counters, "count", count)
    return found
