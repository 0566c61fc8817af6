"""A notification service that fails on demand, and helpers for the tests of the notifier."""

import asyncio
import contextlib
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

ADDRESS = "alice0000@_chat.example.org"
HOUR = 3600


class Service:
    """A notification service. It answers with the given statuses, then with 200.

    tries: (token, status, time) of each request.
    """

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.tries = []
        self.changed = asyncio.Condition()

    async def handle(self, request):
        token = await request.text()
        status = self.statuses.pop(0) if self.statuses else 200
        async with self.changed:
            self.tries.append((token, status, time.monotonic()))
            self.changed.notify_all()
        headers = {"Location": "/elsewhere"} if status == 302 else {}
        return web.Response(status=status, headers=headers)

    async def wait_for_tries(self, count):
        """Wait until there are this many tries. Return the tokens of all of them."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.tries) >= count)
        return [token for token, *_ in self.tries]

    @contextlib.asynccontextmanager
    async def running(self):
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        async with TestServer(app) as server:
            yield str(server.make_url("/notify"))


def run(coroutine):
    asyncio.run(asyncio.wait_for(coroutine, 20))


def must_not_forget(address, token):
    pytest.fail("the notifier forgot a token")


async def wait_until_empty(directory):
    """Wait until no notification is pending."""
    async with asyncio.timeout(10):
        while list(directory.iterdir()):
            await asyncio.sleep(0.01)


async def wait_for_failures(queue, count):
    """Wait until this many notifications have failed and will be tried again."""
    async with asyncio.timeout(10):
        while sum(map(len, queue._failed.values())) < count:
            await asyncio.sleep(0.01)
