"""Fixtures for the tests of the metrics."""

import pytest
from chatmaild.metrics.endpoint import Parts


@pytest.fixture
def relay(tmp_path):
    """Return a Parts that finds nothing yet, and its three paths."""
    counted, retention = tmp_path / "counted", tmp_path / "retention"
    for service in ("accounts", "filter", "transport"):
        (counted / service).mkdir(parents=True)
    retention.mkdir()
    return Parts(counted, retention, tmp_path / "dovecot"), counted, retention, tmp_path / "dovecot"
