"""A message a second from one relay to another, and a client that waits for them meanwhile."""

import contextlib
import itertools
import re
import secrets
import threading
import time

from relay.client import encrypted, imap, smtp
from support.idle_client import IdleClient

MESSAGE_ID = re.compile(rb"<(stream-[0-9a-f]{16})@localhost>")


class Background:
    """Does `_run` in a thread within a `with` block. `_run` ends when `_end` is set."""

    def __init__(self):
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self._thread.join(60)


class MailStream(Background):
    """Sends a message a second to `recipient`. sent: the ids of accepted messages, in order."""

    def __init__(self, relay, sender, recipient):
        super().__init__()
        self.relay, self.sender, self.recipient = relay, sender, recipient
        self.sent = []

    def _run(self):
        while not self._end.wait(1):
            name = f"stream-{secrets.token_hex(8)}"
            message = encrypted(
                self.sender.address, self.recipient.address, Message_ID=f"<{name}@localhost>"
            )
            with smtp(self.relay, self.sender) as connection:
                connection.sendmail(self.sender.address, [self.recipient.address], message)
            self.sent.append(name)


class Conversation(Background):
    """Delta Chat writes a message a second to another Delta Chat, which does nothing but wait.

    writer, reader: two accounts that have joined. sent: the texts, in order.
    """

    def __init__(self, writer, reader):
        super().__init__()
        self._to, self._from = writer.create_chat(reader), reader.create_chat(writer)
        self._name, self.sent = secrets.token_hex(4), []

    def _run(self):
        while not self._end.wait(1):
            text = f"{self._name} {len(self.sent)}"
            self._to.send_text(text)
            self.sent.append(text)

    def received(self):
        """Return each message that the reader has: its text, and the second at which it came."""
        found = [message.get_snapshot() for message in self._from.get_messages()]
        ours = [each for each in found if each.text.startswith(f"{self._name} ")]
        return [(each.text, each.received_timestamp) for each in ours]

    def longest_pause(self):
        """Return the seconds of the longest pause between two messages that came."""
        return longest_pause([second for _, second in self.received()])


class Waiting(Background):
    """An idle client that connects again when its connection ends.

    seen: when it heard of messages. connected: the times at which it began to wait.
    """

    def __init__(self, relay, account):
        super().__init__()
        self.relay, self.account = relay, account
        self.seen, self.connected = [], []

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

    def longest_pause(self):
        """Return the seconds of the longest pause between two messages that it heard of."""
        return round(longest_pause(self.seen), 1)


def longest_pause(times):
    """Return the longest time between two that follow each other."""
    return max(after - before for before, after in itertools.pairwise(sorted(times)))


def stored(relay, account):
    """Return the ids of the stream's messages in an inbox, each as often as it is there."""
    with imap(relay, account) as connection:
        connection.select("INBOX", readonly=True)
        _ok, found = connection.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
    headers = b"".join(part[1] for part in found if isinstance(part, tuple))
    return [each.decode() for each in MESSAGE_ID.findall(headers)]
