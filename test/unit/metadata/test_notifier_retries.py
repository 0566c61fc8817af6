"""When and how often the notifier tries again, and what ends a notification."""

import asyncio
import itertools
import json
import logging
import time

import pytest
from chatmaild.metadata import notifier
from chatmaild.metadata.notifier import Notifier
from support.notification_service import (
    ADDRESS,
    HOUR,
    Service,
    must_not_forget,
    run,
    wait_until_empty,
)

pytestmark = pytest.mark.usefixtures("fast_retries")


def test_token_is_the_body_and_200_ends_it(directory):
    async def main():
        service = Service()
        async with (
            service.running() as url,
            Notifier(directory, url, must_not_forget) as queue,
        ):
            queue.notify(ADDRESS, "openpgp:token+/=")
            assert len(list(directory.iterdir())) == 1
            assert await service.wait_for_tries(1) == ["openpgp:token+/="]
            await wait_until_empty(directory)

    run(main())


def test_token_of_a_removed_device_is_dropped_and_not_tried_again(directory):
    async def main():
        service, dropped = Service(410), []
        async with (
            service.running() as url,
            Notifier(directory, url, lambda *which: dropped.append(which)) as queue,
        ):
            queue.notify(ADDRESS, "token")
            await wait_until_empty(directory)
        assert dropped == [(ADDRESS, "token")]
        assert len(service.tries) == 1

    run(main())


@pytest.mark.parametrize("status", [201, 302, 400, 404, 429, 500, 503])
def test_other_status_is_tried_again(directory, status):
    async def main():
        service = Service(status)
        async with (
            service.running() as url,
            Notifier(directory, url, must_not_forget) as queue,
        ):
            queue.notify(ADDRESS, "token")
            assert await service.wait_for_tries(2) == ["token", "token"]
            await wait_until_empty(directory)
        assert [status for _, status, _ in service.tries] == [status, 200]

    run(main())


def test_tries_are_five_with_the_pauses_of_the_contract(directory):
    async def main():
        service = Service(*[500] * 10)
        async with (
            service.running() as url,
            Notifier(directory, url, must_not_forget) as queue,
        ):
            queue.notify(ADDRESS, "token")
            await wait_until_empty(directory)
        assert len(service.tries) == 5
        times = [when for *_, when in service.tries]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        expected = (0.008, 0.064, 0.128, 0.256)
        assert all(pause >= least for pause, least in zip(pauses, expected, strict=True))

    run(main())


def test_pauses_and_age_are_those_of_the_contract(monkeypatch):
    monkeypatch.undo()
    assert notifier.RETRY_AFTER == (8, 64, 512, 4096)
    assert notifier.MAX_AGE == 5 * HOUR


def test_notification_is_not_tried_after_five_hours(directory, monkeypatch):
    # Without the limit, there are tries after 0, 0.008, 0.072, 0.2 and 0.456 s.
    monkeypatch.setattr(notifier, "MAX_AGE", 0.4)

    async def main():
        service = Service(*[500] * 10)
        async with (
            service.running() as url,
            Notifier(directory, url, must_not_forget) as queue,
        ):
            queue.notify(ADDRESS, "token")
            await wait_until_empty(directory)
        assert 2 <= len(service.tries) < 5

    run(main())


def test_unreachable_service_is_tried_again(directory, caplog):
    async def main():
        service = Service()
        async with service.running() as url:
            pass
        async with Notifier(directory, url, must_not_forget) as queue:
            queue.notify(ADDRESS, "token")
            await wait_until_empty(directory)

    with caplog.at_level(logging.WARNING):
        run(main())
    # The log has one line, not one for each try, and it has no address.
    assert len(caplog.records) == 1
    assert "token" not in caplog.text
    assert ADDRESS not in caplog.text


def test_request_to_a_service_that_hangs_ends(directory, monkeypatch):
    monkeypatch.setattr(notifier, "REQUEST_TIMEOUT", 0.05)

    async def main():
        silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        host, port = silent.sockets[0].getsockname()
        async with (
            silent,
            Notifier(directory, f"http://{host}:{port}/", must_not_forget) as queue,
        ):
            queue.notify(ADDRESS, "token")
            await wait_until_empty(directory)

    run(main())


def test_pending_notification_survives_a_restart(directory, monkeypatch):
    monkeypatch.setattr(notifier, "RETRY_AFTER", (HOUR,))

    async def main():
        service = Service(500)
        async with service.running() as url:
            async with Notifier(directory, url, must_not_forget) as first:
                first.notify(ADDRESS, "token")
                await service.wait_for_tries(1)
            assert len(list(directory.iterdir())) == 1
            async with Notifier(directory, url, must_not_forget):
                assert await service.wait_for_tries(2) == ["token", "token"]
                await wait_until_empty(directory)

    run(main())


def test_restart_drops_notifications_that_are_too_old_or_broken(directory):
    old = {"address": ADDRESS, "token": "old", "first_try": time.time() - 5 * HOUR - 1}
    (directory / "old").write_text(json.dumps(old))
    (directory / "broken").write_text("{")
    (directory / "strange").write_text('{"address": 1}')
    (directory / ".draft-half").write_text(json.dumps(old | {"first_try": time.time()}))

    async def main():
        service = Service()
        async with service.running() as url, Notifier(directory, url, must_not_forget):
            await wait_until_empty(directory)
        assert service.tries == []

    run(main())
