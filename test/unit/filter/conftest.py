"""What the tests of the running filter share."""

import pytest
from support import running_filter
from support.messages import RECIPIENT, STRANGER, encrypted_body, fields
from support.milter_client import MilterClient


@pytest.fixture(scope="module")
def filter_(tmp_path_factory):
    # One sender stands in most tests: no test may use up what another needs.
    filter_ = running_filter.Filter(
        tmp_path_factory.mktemp("filter"), max_user_send_burst_size=10_000
    )
    filter_.add_mailbox(RECIPIENT)
    filter_.add_mailbox("clear0000@chat.example.org", cleartext=True)
    filter_.start()
    yield filter_
    assert filter_.stop() == 0


@pytest.fixture
def own_filter(tmp_path):
    """A filter for tests that change or kill it; started by them."""
    filter_ = running_filter.Filter(tmp_path)
    yield filter_
    filter_.stop()


@pytest.fixture
def submission(filter_):
    with MilterClient(filter_.sockets / "submission") as client:
        yield client


@pytest.fixture
def incoming(filter_):
    with MilterClient(filter_.sockets / "incoming") as client:
        yield client


@pytest.fixture(scope="module")
def sent(filter_):
    """A message as it leaves the relay."""
    with MilterClient(filter_.sockets / "submission") as client:
        return client.message(
            "sent@chat.example.org", [STRANGER], fields("sent@chat.example.org"), encrypted_body()
        )
