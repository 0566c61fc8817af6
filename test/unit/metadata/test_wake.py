"""Watchers of a mailbox see something happen a moment after each delivery."""

import asyncio

import pytest
from chatmaild.imap_notify import object as imap_notify
from chatmaild.metadata import wake


@pytest.fixture
def touched(monkeypatch, tmp_path):
    """The directories touched, in order, without the object of imap_notify. Delays are short."""
    seen = []
    monkeypatch.setattr(imap_notify, "OBJECT", tmp_path / "imap_notify.so")
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


def test_delivery_that_somebody_has_seen_touches_once(tmp_path, touched):
    (tmp_path / "new").mkdir()
    after_delivery(tmp_path)
    assert touched == [tmp_path / "new"]
    assert list((tmp_path / "new").iterdir()) == []


def test_delivery_that_nobody_has_seen_touches_again_but_not_for_ever(tmp_path, touched):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1700000000.M1P1.relay").touch()
    after_delivery(tmp_path)
    assert touched == [tmp_path / "new"] * 3


def test_address_that_is_gone_is_passed_over(tmp_path, touched):
    after_delivery(tmp_path / "gone")
    assert len(touched) == 1
    assert list(tmp_path.iterdir()) == []


def test_dovecot_that_tells_at_once_needs_no_touch(tmp_path, touched):
    (tmp_path / "new").mkdir()
    (tmp_path / "imap_notify.so").touch()
    after_delivery(tmp_path)
    assert touched == []
