"""A message a second from one relay to another, and a client that waits for them meanwhile."""

import contextlib
import re
import secrets
import threading
import time

from relay.client import encrypted, imap, smtp
from support.idle_client import IdleClient

MESSAGE_ID = re.compile(rb"<(stream-[0-9a-f]{16})@localhost>")


class MailStream:
    """Sends to `recipient` within a `with` block. sent: the ids of accepted messages, in order."""

    def __init__(self, relay, sender, recipient):
        self.relay, self.sender, self.recipient = relay, sender, recipient
        self.sent, self._end = [], threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._end.wait(1):
            name = f"stream-{secrets.token_hex(8)}"
            message = encrypted(
                self.sender.address, self.recipient.address, Message_ID=f"<{name}@localhost>"
            )
            with smtp(self.relay, self.sender) as connection:
                connection.sendmail(self.sender.address, [self.recipient.address], message)
            self.sent.append(name)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(60)


class Waiting:
    """An idle client that connects again when its connection ends, within a `with` block.

    seen: when it heard of messages. connected: the times at which it began to wait.
    """

    def __init__(self, relay, account):
        self.relay, self.account = relay, account
        self.seen, self.connected = [], []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._end.is_set():
            # pytest.fail of the client raises no Exception of the usual kind.
            with contextlib.suppress(Exception, BaseException):
                self._wait()
            self._end.wait(0.5)

    def _wait(self):
        client = IdleClient(self.relay, self.account)
        client.socket.settimeout(1)
        client.idle()
        self.connected.append(time.monotonic())
        try:
            while not self._end.is_set():
                with contextlib.suppress(TimeoutError):
                    client.wait_for_message()
                    self.seen.append(time.monotonic())
        finally:
            client.close()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(60)


def stored(relay, account):
    """Return the ids of the stream's messages in an inbox, each as often as it is there."""
    with imap(relay, account) as connection:
        connection.select("INBOX", readonly=True)
        _ok, found = connection.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
    headers = b"".join(part[1] for part in found if isinstance(part, tuple))
    return [each.decode() for each in MESSAGE_ID.findall(headers)]
