"""The notifier against a notification service that fails on demand."""

import asyncio
import gc
import json
import logging

import pytest
from chatmaild.metadata import notifier
from chatmaild.metadata.notifier import Notifier
from support.notification_service import (
    ADDRESS,
    HOUR,
    Service,
    must_not_forget,
    run,
    wait_for_failures,
    wait_until_empty,
)

pytestmark = pytest.mark.usefixtures("fast_retries")


def test_notification_whose_file_is_deleted_is_not_sent_again(directory):
    """The file is deleted when its address is deleted or expires."""

    async def main():
        service = Service(500)
        async with (
            service.running() as url,
            Notifier(directory, url, must_not_forget) as notifier_,
        ):
            notifier_.notify(ADDRESS, "deleted")
            await service.wait_for_tries(1)
            for path in directory.iterdir():
                path.unlink()
            notifier_.notify(ADDRESS, "kept")
            async with asyncio.timeout(10):
                while notifier_._pending:
                    await asyncio.sleep(0.01)
            assert await service.wait_for_tries(2) == ["deleted", "kept"]
        assert list(directory.iterdir()) == []

    run(main())


def test_new_message_is_notified_at_once_while_an_older_one_waits(directory, monkeypatch):
    """A device has one notification. A new message starts it again, with its pauses."""
    monkeypatch.setattr(notifier, "RETRY_AFTER", (HOUR,))

    async def main():
        service = Service(500)
        async with (
            service.running() as url,
            Notifier(directory, url, must_not_forget) as queue,
        ):
            queue.notify(ADDRESS, "token")
            await service.wait_for_tries(1)
            queue.notify(ADDRESS, "token")
            assert len(list(directory.iterdir())) == 1
            await service.wait_for_tries(2)
            await wait_until_empty(directory)

    run(main())


def test_message_during_a_request_is_notified_after_it(directory):
    async def main():
        service = Service()
        async with (
            service.running() as url,
            Notifier(directory, url, must_not_forget) as queue,
        ):
            queue.notify(ADDRESS, "token")
            async with service.changed:
                await service.changed.wait()
            # The service has the request, but the notifier has not read the answer yet.
            queue.notify(ADDRESS, "token")
            assert await service.wait_for_tries(2) == ["token", "token"]
            await wait_until_empty(directory)
        assert len(service.tries) == 2

    run(main())


def test_queue_and_requests_are_bounded(directory, monkeypatch, caplog):
    monkeypatch.setattr(notifier, "MAX_PENDING", 100)

    async def main():
        service = Service()
        open_requests, most = 0, 0
        answer = asyncio.Event()

        async def slow(request):
            nonlocal open_requests, most
            open_requests += 1
            most = max(most, open_requests)
            if open_requests == notifier.MAX_REQUESTS:
                answer.set()
            await answer.wait()
            open_requests -= 1
            return await Service.handle(service, request)

        service.handle = slow
        async with service.running() as url, Notifier(directory, url, must_not_forget) as many:
            for number in range(150):
                many.notify(f"user{number}@_chat.example.org", f"token{number}")
            assert len(list(directory.iterdir())) == 100
            await wait_until_empty(directory)
        assert len(set(await service.wait_for_tries(100))) == 100
        assert most == notifier.MAX_REQUESTS

    with caplog.at_level(logging.WARNING):
        run(main())
    assert "100 devices wait already" in caplog.text


def test_full_queue_drops_the_notifications_that_failed_most(directory, monkeypatch):
    """Once, 313 addresses with 32 junk tokens each filled the queue, and no device was woken."""
    monkeypatch.setattr(notifier, "MAX_PENDING", 64)
    monkeypatch.setattr(notifier, "RETRY_AFTER", (0.05, HOUR))

    async def main():
        service = Service(*[400] * 96)
        async with service.running() as url, Notifier(directory, url, must_not_forget) as queue:
            for number in range(32):
                queue.notify("first@_chat.example.org", f"twice{number}")
            await service.wait_for_tries(64)
            await wait_for_failures(queue, 32)
            for number in range(32):
                queue.notify("second@_chat.example.org", f"once{number}")
            await wait_for_failures(queue, 64)
            for number in range(33):
                queue.notify(ADDRESS if number < 32 else "last@_chat.example.org", f"good{number}")
            tries = await service.wait_for_tries(96 + 33)
            assert {f"good{number}" for number in range(33)} <= set(tries)
            # The queue dropped those that had failed twice, and then one of the others.
            left = {json.loads(path.read_text())["token"] for path in directory.iterdir()}
            assert not any(token.startswith("twice") for token in left)
            assert sum(token.startswith("once") for token in left) >= 31

    run(main())


def test_address_takes_only_its_share_of_the_queue(directory, monkeypatch, caplog):
    """An address may set new tokens all the time, and each would wait for five hours."""
    monkeypatch.setattr(notifier, "RETRY_AFTER", (HOUR,))

    async def main():
        service = Service(*[400] * 1000)
        async with service.running() as url, Notifier(directory, url, must_not_forget) as queue:
            for number in range(100):
                queue.notify(ADDRESS, f"junk{number}")
            assert len(list(directory.iterdir())) == notifier.MAX_PENDING_OF_ADDRESS
            await wait_for_failures(queue, notifier.MAX_PENDING_OF_ADDRESS)
            queue.notify(ADDRESS, "after")
            assert "after" in await service.wait_for_tries(notifier.MAX_PENDING_OF_ADDRESS + 1)
            assert len(list(directory.iterdir())) == notifier.MAX_PENDING_OF_ADDRESS
            queue.notify("other@_chat.example.org", "other")
            await service.wait_for_tries(notifier.MAX_PENDING_OF_ADDRESS + 2)

    with caplog.at_level(logging.WARNING):
        run(main())
    assert ADDRESS not in caplog.text


def test_dropped_notification_is_not_sent_any_more(directory, monkeypatch):
    monkeypatch.setattr(notifier, "MAX_PENDING", 1)
    monkeypatch.setattr(notifier, "RETRY_AFTER", (0.1,) * 4)

    async def main():
        service = Service(400)
        async with service.running() as url, Notifier(directory, url, must_not_forget) as queue:
            queue.notify(ADDRESS, "junk")
            await wait_for_failures(queue, 1)
            queue.notify("other@_chat.example.org", "good")
            await wait_until_empty(directory)
            await asyncio.sleep(0.2)
            assert await service.wait_for_tries(2) == ["junk", "good"]
            assert queue._pending == queue._of_address == queue._failed == {}

    run(main())


@pytest.mark.parametrize("steps", range(6))
def test_notification_that_is_dropped_while_it_is_renewed_ends_without_an_error(
    directory, monkeypatch, steps
):
    """In Python 3.11, asyncio.wait_for loses a cancellation at the moment when its wait ends."""
    monkeypatch.setattr(notifier, "MAX_PENDING", 1)
    monkeypatch.setattr(notifier, "RETRY_AFTER", (HOUR,))
    problems = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: problems.append(context)
        )
        service = Service(400)
        async with service.running() as url, Notifier(directory, url, must_not_forget) as queue:
            queue.notify(ADDRESS, "junk")
            await wait_for_failures(queue, 1)
            queue.notify(ADDRESS, "junk")
            for _ in range(steps):
                await asyncio.sleep(0)
            queue.notify("other@_chat.example.org", "good")
            await wait_until_empty(directory)
            gc.collect()
            await asyncio.sleep(0)
        assert queue._pending == queue._of_address == queue._failed == {}

    run(main())
    assert problems == []
