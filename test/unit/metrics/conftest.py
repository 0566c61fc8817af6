"""What the tests of the metrics share."""

import pytest
from chatmaild.metrics.endpoint import Parts


@pytest.fixture
def relay(tmp_path):
    """The three places where the endpoint looks, empty; as a Parts and its directories."""
    counted, retention = tmp_path / "counted", tmp_path / "retention"
    for service in ("accounts", "filter", "metadata", "transport"):
        (counted / service).mkdir(parents=True)
    retention.mkdir()
    return Parts(counted, retention, tmp_path / "dovecot"), counted, retention, tmp_path / "dovecot"
