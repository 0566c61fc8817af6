"""A moment after each delivery, watchers of the mailbox notice a change."""

import asyncio

import pytest
from chatmaild.dovecot_objects import objects
from chatmaild.metadata import wake


@pytest.fixture
def touched(monkeypatch, tmp_path):
    """Return the touched directories, in order. There is no object, and delays are short."""
    seen = []
    monkeypatch.setattr(objects, "FOLDER", tmp_path)
    monkeypatch.setattr(wake, "DELAY", 0.001)
    monkeypatch.setattr(wake, "RETRIES", (0.001, 0.001))
    touch = wake.touch
    monkeypatch.setattr(wake, "touch", lambda new: seen.append(new) or touch(new))
    return seen


def after_delivery(home):
    async def scenario():
        wake.wake_soon(home)
        await asyncio.sleep(0.1)

    asyncio.run(scenario())


def test_delivery_that_a_client_has_seen_touches_once(tmp_path, touched):
    (tmp_path / "new").mkdir()
    after_delivery(tmp_path)
    assert touched == [tmp_path / "new"]
    assert list((tmp_path / "new").iterdir()) == []


def test_delivery_that_no_client_has_seen_touches_a_few_times_more(tmp_path, touched):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1700000000.M1P1.relay").touch()
    after_delivery(tmp_path)
    assert touched == [tmp_path / "new"] * 3


def test_deleted_address_is_ignored(tmp_path, touched):
    after_delivery(tmp_path / "gone")
    assert len(touched) == 1
    assert list(tmp_path.iterdir()) == []


def test_dovecot_that_tells_at_once_needs_no_touch(tmp_path, touched):
    (tmp_path / "new").mkdir()
    (tmp_path / "imap.so").touch()
    after_delivery(tmp_path)
    assert touched == []
