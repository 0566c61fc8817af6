"""A notification service that fails on demand, and what the tests of the notifier share."""

import asyncio
import contextlib
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

ADDRESS = "alice0000@_chat.example.org"
HOUR = 3600


class Service:
    """A notification service: answers the statuses it was given, then 200; keeps every try."""

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

    async def seen(self, count):
        """Return the tokens of all tries, once there are this many."""
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


def no_forgetting(address, token):
    pytest.fail("a token was dropped")


async def emptied(directory):
    """Return when no notification is pending."""
    async with asyncio.timeout(10):
        while list(directory.iterdir()):
            await asyncio.sleep(0.01)


async def failed(queue, count):
    """Return when this many notifications have failed, and wait for their next try."""
    async with asyncio.timeout(10):
        while sum(map(len, queue._failed.values())) < count:
            await asyncio.sleep(0.01)
