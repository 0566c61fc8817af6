"""How long a message waits for its notice while two clients talk, and after they were idle.

Run by hand: `test/lab/lab client -- .venv/bin/python test/bench/conversation.py DOMAIN`. DOMAIN is
any relay in the lab. Each figure is the time from the end of DATA at the sender to EXISTS at the
recipient, who waits in IDLE.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = [str(Path(__file__).parents[1])]

from relay.client import encrypted, new_account, smtp  # noqa: E402
from support.idle_client import IdleClient  # noqa: E402


class Person:
    """An account with one connection for receiving and one for sending."""

    def __init__(self, relay):
        self.account = new_account(relay)
        self.inbox = IdleClient(relay, self.account)
        self.outbox = smtp(relay, self.account)
        self.inbox.idle()

    def send(self, recipient):
        """Send one message; return when its last byte was written."""
        self.outbox.mail(self.account.address)
        self.outbox.rcpt(recipient.account.address)
        self.outbox.putcmd("data")
        self.outbox.getreply()
        self.outbox.send(encrypted(self.account.address, recipient.account.address) + b".\r\n")
        return time.perf_counter()

    def receive(self):
        """Wait for a notice, fetch what came, and wait again; return the time of the notice."""
        self.inbox.wait_for_message()
        told = time.perf_counter()
        self.inbox.done()
        self.inbox.command("UID FETCH * (BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
        self.inbox.idle()
        return told

    def confirm(self):
        """Read the relay's answer to the last message."""
        code, text = self.outbox.getreply()
        assert code == 250, text


def converse(one, other, count, pause):
    """Send `count` messages to and fro; return the seconds until each notice.

    pause: seconds that both are in IDLE before each message.
    """
    waits = []
    for number in range(count):
        sender, recipient = (one, other) if number % 2 else (other, one)
        time.sleep(pause)
        sent = sender.send(recipient)
        waits.append(recipient.receive() - sent)
        sender.confirm()
    return waits


def show(name, waits):
    """Print one line of figures, in milliseconds."""
    waits = sorted(1000 * wait for wait in waits)
    print(
        f"{name}: median {statistics.median(waits):.1f} ms, p95 {waits[len(waits) * 95 // 100]:.1f}"
        f" ms, slowest {waits[-1]:.1f} ms, {len(waits)} messages",
        flush=True,
    )


def main():
    """Measure both kinds of waiting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("domain")
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--idle", type=int, default=40)
    options = parser.parse_args()
    relay = SimpleNamespace(domain=options.domain)
    one, other = Person(relay), Person(relay)
    show("conversation", converse(one, other, options.messages, 0))
    show("idle for 2.5 s", converse(one, other, options.idle, 2.5))


if __name__ == "__main__":
    main()
