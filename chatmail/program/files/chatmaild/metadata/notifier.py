"""Wakes devices: sends their tokens to the notification service until the service accepts them.

A notification is a file in the queue directory until it is done, so a restart loses none. A device
has at most one notification, because the service gets the token and nothing about the message. A
message that arrives while the notification waits for its next try starts the tries again.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from chatmaild.common import atomic_files
from chatmaild.common.http_client import HttpClient, Origin, tls_context
from chatmaild.metrics import counters

# Seconds from a failure to the next try.
RETRY_AFTER = (8, 64, 512, 4096)
# Seconds from the first try to the last possible one. Without this limit, restarts would allow
# later tries.
MAX_AGE = 5 * 3600
# The number of requests at once.
MAX_REQUESTS = 64
# Seconds.
REQUEST_TIMEOUT = 10
# The number of devices that may wait. Above it, the notification with the most failures is given
# up. When none has failed, a further message wakes no device. 10000 tokens of 4 KB are 40 MB.
MAX_PENDING = 10000
# The same for one address, which may set new tokens all the time. An address has 32 tokens at once
# (entries.MAX_TOKENS).
MAX_PENDING_OF_ADDRESS = 32
# Seconds. The log has one line in this time about a failing service, not one line for each device.
REPORT_EVERY = 60
# The names of the service's answers in the metrics.
RESULTS = {200: "sent", 410: "gone"}

log = logging.getLogger(__name__)


class Notification:
    """One device to wake, and the file of the notification."""

    def __init__(self, address: str, token: str, path: Path, first_try: float):
        self.address, self.token, self.path, self.first_try = address, token, path, first_try
        self.failures = 0
        self.task = None
        # Set when a message has come since the last try began.
        self.renewed = asyncio.Event()

    def save(self) -> None:
        """Write the file. Raises OSError."""
        content = {"address": self.address, "token": self.token, "first_try": self.first_try}
        atomic_files.replace(self.path, json.dumps(content))


class Notifier:
    """The queue of notifications. Use it inside a running event loop.

    directory: the existing directory of the files.
    url: the notification service.
    forget: a function of (address, token). It is called when the service does not know the token
        any more.
    family: socket.AF_INET to connect over IPv4 only.
    """

    def __init__(self, directory: Path, url: str, forget: Callable, family: int = 0):
        self._directory, self._url, self._forget, self._family = directory, url, forget, family
        self._pending = {}
        # The same notifications by address, and by the number of failures. The inner values are
        # dicts, because dicts keep their order.
        self._of_address = {}
        self._failed = {}
        self._tasks = set()
        self._slots = asyncio.Semaphore(MAX_REQUESTS)
        self._next_report = 0
        self._client = HttpClient(REQUEST_TIMEOUT)
        self._origin = None

    async def __aenter__(self):
        """Go on with the notifications that the last run left."""
        for path in self._directory.iterdir():
            self._resume(path)
        return self

    async def __aexit__(self, *exception):
        """Stop. Pending notifications stay on disk."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    def notify(self, address: str, token: str) -> None:
        """Wake a device now. Returns when the notification is on disk. Raises OSError."""
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
        """Return whether one more notification may wait.

        When too many wait, the one with the most failures is given up. Tokens without a device fail
        again and again, and must not keep others out.
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
            self._report(f"{most} devices{whose} wait already, a further one is not woken")
            return False
        self._report(f"{most} devices{whose} wait already, the one that failed most is given up")
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
        """Try until the service accepts the token, does not know it, or until it is too late."""
        # The deletion of an address removes the file. Then nothing more is sent for this address.
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
        # If this notification was given up while it ended, another one may have its place.
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
        """Return the HTTP status of the service, or None without an answer."""
        async with self._slots:
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    status = await self._ask(token.encode())
                problem = f"status {status}"
            except (OSError, ValueError) as error:
                status, problem = None, str(error) or type(error).__name__
        counters.count("chatmail_pushes_total", RESULTS.get(status, "failed"))
        if status not in (200, 410):
            self._report(f"the notification service {self._url} fails: {problem}")
        return status

    async def _ask(self, token):
        """Return the HTTP status of the service. Raises OSError or ValueError."""
        url = urlsplit(self._url)
        if self._origin is None:
            tls = tls_context(verified=True) if url.scheme == "https" else None
            port = url.port or (443 if tls else 80)
            self._origin = Origin(url.hostname, port, (url.hostname,), tls, self._family)
        target = f"{url.path or '/'}{f'?{url.query}' if url.query else ''}"
        headers = [
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", str(len(token))),
        ]
        return (await self._client.post(self._origin, target, headers, lambda: [token])).status

    def _report(self, problem):
        now = time.monotonic()
        if now >= self._next_report:
            log.warning("%s (logged once in %d s)", problem, REPORT_EVERY)
            self._next_report = now + REPORT_EVERY


def _discard(groups, key, member):
    """Remove a member from its group, and an empty group from the groups."""
    group = groups.get(key, {})
    group.pop(member, None)
    if not group:
        groups.pop(key, None)
