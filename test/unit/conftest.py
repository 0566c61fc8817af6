"""What every test of the services needs."""

import pytest
from chatmaild import metrics

COUNTED = {
    (counter.name, labels)
    for counter in metrics.COUNTERS
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

    monkeypatch.setattr(metrics, "count", count)
    return found
