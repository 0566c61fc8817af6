"""Files of delivered messages: each is told once, whenever it came, and does not stay."""

import asyncio
import logging

import pytest
from chatmaild.metadata import deliveries


def deliver(directory, *names):
    for name in names:
        (directory / name).touch()


class Listener:
    """Collects what is told."""

    def __init__(self):
        self.told = []
        self.changed = asyncio.Event()

    def __call__(self, address, own):
        self.told.append((address, own))
        self.changed.set()

    async def wait_for(self, count):
        """Return what was told, as soon as it is so much."""
        async with asyncio.timeout(10):
            while len(self.told) < count:
                self.changed.clear()
                await self.changed.wait()
        return sorted(self.told)


def watch(directory, scenario):
    """Run `scenario(listener)` while the directory is watched; return its result."""

    async def main():
        listener = Listener()
        with deliveries.watching(directory, listener):
            return await scenario(listener)

    return asyncio.run(main())


def test_message_is_told_with_its_address_and_its_file_goes(tmp_path):
    async def scenario(listener):
        deliver(tmp_path, "alice@x.example 7", "bob@x.example 1 own")
        return await listener.wait_for(2)

    assert watch(tmp_path, scenario) == [("alice@x.example", False), ("bob@x.example", True)]
    assert list(tmp_path.iterdir()) == []


def test_each_message_of_an_address_is_told(tmp_path):
    async def scenario(listener):
        for uid in range(1, 101):
            deliver(tmp_path, f"alice@x.example {uid}")
            await asyncio.sleep(0)
        return await listener.wait_for(100)

    assert len(watch(tmp_path, scenario)) == 100


def test_message_that_came_before_is_told(tmp_path):
    """The service was not there when Dovecot delivered the message."""
    deliver(tmp_path, "alice@x.example 7")
    assert watch(tmp_path, lambda listener: listener.wait_for(1)) == [("alice@x.example", False)]


def test_message_that_fails_is_logged_without_its_address_and_others_are_told(tmp_path, caplog):
    told = []

    def tell(address, own):
        if address.startswith("alice"):
            raise OSError(28, "No space left on device", address)
        told.append(address)

    async def main():
        deliver(tmp_path, "alice@x.example 7", "bob@x.example 1")
        with deliveries.watching(tmp_path, tell):
            pass

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert told == ["bob@x.example"]
    assert "OSError" in caplog.text
    assert "alice" not in caplog.text


def test_directory_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(OSError, match="inotify"):
        watch(tmp_path / "gone", lambda listener: listener.wait_for(0))
