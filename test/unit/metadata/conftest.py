"""Fixtures for the tests of the notifier."""

import pytest
from chatmaild.metadata import notifier


@pytest.fixture
def fast_retries(monkeypatch):
    """Shorten the pauses between the tries from seconds and hours to less than a second."""
    monkeypatch.setattr(notifier, "RETRY_AFTER", (0.008, 0.064, 0.128, 0.256))


@pytest.fixture
def directory(tmp_path):
    return tmp_path
