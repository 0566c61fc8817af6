"""Wakes devices: hands their tokens to the notification service until it takes them.

A notification is a file in the queue directory until it is done, so that a restart loses none.
There is at most one for each device: a message that comes while one waits for its next try makes
that one new, since the service gets the token and nothing about the message.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from chatmaild.common import atomic_files
from chatmaild.metrics import counters

# Seconds from one failure to the next try.
RETRY_AFTER = (8, 64, 512, 4096)
# No try later than this after the first one, which is what restarts would allow.
MAX_AGE = 5 * 3600
# Requests at once.
MAX_REQUESTS = 64
REQUEST_TIMEOUT = 10
# Devices waiting. Beyond it the one that failed most makes room, and if none has failed, a message
# wakes nobody. 10000 tokens of 4 KB are 40 MB.
MAX_PENDING = 10000
# Of one address, which may set other tokens all the time. It has 32 at once (entries.MAX_TOKENS).
MAX_PENDING_OF_ADDRESS = 32
# A failing service is told of once in this time, not once for every device.
REPORT_EVERY = 60
# What the service's answers are counted as.
RESULTS = {200: "sent", 410: "gone"}

log = logging.getLogger(__name__)


class Notification:
    """One device to wake, and the file that stands for it."""

    def __init__(self, address: str, token: str, path: Path, first_try: float):
        self.address, self.token, self.path, self.first_try = address, token, path, first_try
        self.failures = 0
        self.task = None
        # A message came since the last try began.
        self.renewed = asyncio.Event()

    def save(self) -> None:
        """Write the file. Raises OSError."""
        content = {"address": self.address, "token": self.token, "first_try": self.first_try}
        atomic_files.replace(self.path, json.dumps(content))


class Notifier:
    """The queue of notifications; lives inside a running event loop.

    directory: where the files lie; must exist.
    url: the notification service.
    forget: called with (address, token) when the service does not know the token any more.
    family: socket.AF_INET to connect over IPv4 alone.
    """

    def __init__(self, directory: Path, url: str, forget: Callable, family: int = 0):
        self._directory, self._url, self._forget, self._family = directory, url, forget, family
        self._pending = {}
        # The same by address and by number of failures, each a dict for its order.
        self._of_address = {}
        self._failed = {}
        self._tasks = set()
        self._slots = asyncio.Semaphore(MAX_REQUESTS)
        self._next_report = 0
        self._session = None

    async def __aenter__(self):
        """Go on with what the last run left."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_REQUESTS, family=self._family),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT),
            # One device's answer must not follow another's request.
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        for path in self._directory.iterdir():
            self._resume(path)
        return self

    async def __aexit__(self, *exception):
        """Stop; what is pending stays on disk."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    def notify(self, address: str, token: str) -> None:
        """Wake a device now. Returns at once, the notification being on disk. Raises OSError."""
        now = time.time()
        known = self._pending.get((address, token))
        if known:
            known.first_try = now
            known.save()
            known.renewed.set()
        elif self._make_room(address):
            path = self._directory / secrets.token_hex(16)
            fresh = Notification(address, token, path, now)
            fresh.save()
            self._start(fresh)

    def _make_room(self, address):
        """Tell whether one more may wait; where too many do, give up the one that failed most.

        Tokens that nobody has a device for fail again and again: they must not keep out others.
        """
        own = self._of_address.get(address, ())
        if len(own) >= MAX_PENDING_OF_ADDRESS:
            most, whose = MAX_PENDING_OF_ADDRESS, " of an address"
            worst = max(own, key=lambda notification: notification.failures)
        elif len(self._pending) >= MAX_PENDING:
            most, whose = MAX_PENDING, ""
            worst = next(iter(self._failed[max(self._failed)])) if self._failed else None
        else:
            return True
        if worst is None or not worst.failures:
            self._report(f"{most} devices{whose} wait already, a further one is not told")
            return False
        self._report(f"{most} devices{whose} wait already, what failed most is given up")
        worst.task.cancel()
        self._end(worst)
        return True

    def _resume(self, path):
        try:
            content = json.loads(path.read_text())
            found = Notification(
                content["address"], content["token"], path, float(content["first_try"])
            )
            if path.name.startswith(atomic_files.DRAFT_PREFIX):
                raise ValueError("never finished")
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("dropped a broken notification: %s", type(error).__name__)
            path.unlink(missing_ok=True)
        else:
            self._start(found)

    def _start(self, notification):
        self._pending[notification.address, notification.token] = notification
        self._of_address.setdefault(notification.address, {})[notification] = None
        task = notification.task = asyncio.create_task(self._deliver(notification))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, notification):
        """Try until the service has it or has no use for it, or it is too late."""
        # Whoever deletes an address deletes the file, and nothing is sent for it any more.
        while notification.path.exists() and time.time() < notification.first_try + MAX_AGE:
            notification.renewed.clear()
            status = await self._post(notification.token)
            if status == 410:
                self._forget(notification.address, notification.token)
                break
            if notification.renewed.is_set():
                self._count_failures(notification, 0)
                continue
            if status == 200 or notification.failures == len(RETRY_AFTER):
                break
            self._count_failures(notification, notification.failures + 1)
            pause = RETRY_AFTER[notification.failures - 1]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(notification.renewed.wait(), pause)
                self._count_failures(notification, 0)
        self._end(notification)

    def _end(self, notification):
        """Forget a notification, and remove its file."""
        self._count_failures(notification, 0)
        key = notification.address, notification.token
        # Another may have its place, if this one was given up at the moment of its end.
        if self._pending.get(key) is notification:
            del self._pending[key]
        _discard(self._of_address, notification.address, notification)
        notification.path.unlink(missing_ok=True)

    def _count_failures(self, notification, failures):
        _discard(self._failed, notification.failures, notification)
        notification.failures = failures
        if failures:
            self._failed.setdefault(failures, {})[notification] = None

    async def _post(self, token):
        """Return the service's status, or None if it gave none."""
        async with self._slots:
            try:
                async with self._session.post(
                    self._url, data=token.encode(), allow_redirects=False
                ) as answer:
                    status, problem = answer.status, f"status {answer.status}"
            except (aiohttp.ClientError, TimeoutError) as error:
                status, problem = None, str(error) or type(error).__name__
        counters.count("chatmail_pushes_total", RESULTS.get(status, "failed"))
        if status not in (200, 410):
            self._report(f"the notification service {self._url} fails: {problem}")
        return status

    def _report(self, problem):
        now = time.monotonic()
        if now >= self._next_report:
            log.warning("%s (told once in %d s)", problem, REPORT_EVERY)
            self._next_report = now + REPORT_EVERY


def _discard(groups, key, member):
    """Take a member out of its group, and the group away when it was the last one."""
    group = groups.get(key, {})
    group.pop(member, None)
    if not group:
        groups.pop(key, None)
