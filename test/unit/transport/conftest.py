"""What the tests of deliveries share."""

import pytest
from chatmaild.transport import destinations, https_client, smtp_client
from support import transport_peers as peers


@pytest.fixture
def authority(tmp_path):
    return peers.Authority(tmp_path)


@pytest.fixture
def short_times(monkeypatch):
    """What waits 10 s and longer for a black hole waits one second here."""
    monkeypatch.setattr(smtp_client, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(https_client, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(smtp_client, "TLS_SECONDS", 1)
    monkeypatch.setattr(smtp_client, "REPLY_SECONDS", 1)
    monkeypatch.setattr(destinations, "DNS_SECONDS", 1)
