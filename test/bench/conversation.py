"""How long a message waits for its notice while two clients talk, and after they were idle.

Run by hand: `test/lab/lab client -- .venv/bin/python test/bench/conversation.py DOMAIN`, with a
second DOMAIN for a conversation between two relays. DOMAIN is any relay in the lab. Each figure is
the time from the end of DATA at the sender to EXISTS at the recipient, who waits in IDLE.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[:1] = [str(Path(__file__).parents[1])]

from bench.figures import milliseconds  # noqa: E402
from bench.raw import Inbox, Submission, fresh_account  # noqa: E402


class Person:
    """An account with one connection for receiving and one for sending."""

    def __init__(self, domain):
        self.account = fresh_account(domain)
        self.inbox = Inbox(self.account)
        self.outbox = Submission(self.account)
        self.inbox.idle()

    def close(self):
        """Leave both connections."""
        self.inbox.close()
        self.outbox.close()


def converse(one, other, count, pause=0, size=1_000):
    """Send `count` messages to and fro; return the seconds until each notice.

    pause: seconds that both are in IDLE before each message. size: bytes of a message.
    """
    waits = []
    for number in range(count):
        sender, recipient = (one, other) if number % 2 else (other, one)
        time.sleep(pause)
        sent = sender.outbox.send(recipient.account.address, size)
        waits.append(recipient.inbox.wait_for_count()[1] - sent)
        recipient.inbox.fetch()
        sender.outbox.confirm()
    return waits


def conversation(domain, other_domain=None, messages=200, idle=40):
    """Return the waits, in seconds, of a conversation and of clients that were idle for 2.5 s."""
    one, other = Person(domain), Person(other_domain or domain)
    try:
        converse(one, other, 4)  # The first messages start processes and open connections.
        talking = converse(one, other, messages)
        return talking, converse(one, other, idle, 2.5) if idle else []
    finally:
        one.close()
        other.close()


class IdleClients:
    """Clients that do nothing for a long time, each in one IDLE command."""

    def __init__(self, domain, people=40):
        self.domain = domain
        self.inboxes = [Inbox(fresh_account(domain)) for _ in range(people)]
        for inbox in self.inboxes:
            inbox.idle()
        self.began = time.monotonic()

    def waits(self, seconds, say):
        """Send each a message after so many seconds of IDLE; return the waits, in seconds.

        say: a function that prints a line.
        """
        while (left := self.began + seconds - time.monotonic()) > 0:
            say(f"{len(self.inboxes)} clients in IDLE, {left / 60:.1f} minutes left")
            time.sleep(min(left, 300))
        sender = Person(self.domain)
        try:
            converse(sender, sender, 4)
            return [wait_of_one(sender, inbox) for inbox in self.inboxes]
        finally:
            for connection in (sender, *self.inboxes):
                connection.close()


def wait_of_one(sender, inbox):
    """Send one message; return the seconds until its notice."""
    sent = sender.outbox.send(inbox.account.address, 1_000)
    wait = inbox.wait_for_count()[1] - sent
    sender.outbox.confirm()
    return wait


def main():
    """Measure both kinds of waiting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("domain", nargs="+")
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--idle", type=int, default=40)
    options = parser.parse_args()
    names = "conversation", "idle for 2.5 s"
    found = conversation(options.domain[0], options.domain[-1], options.messages, options.idle)
    for name, waits in zip(names, found, strict=True):
        print(f"{name}: {milliseconds(waits)}", flush=True)


if __name__ == "__main__":
    main()
