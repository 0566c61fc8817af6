"""Many senders at once: what is accepted, what arrives, what it costs, and who waits how long."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from bench import shares
from bench.machine import difference
from bench.raw import Inbox, Submission, fresh_account

SENDERS = 40
PAIRS = 5  # pairs of clients whose messages show how long a notice takes meanwhile
WARM_UP = 3  # seconds at the start that the rates leave out
SAMPLE = 0.5  # seconds between two looks at the mailboxes


@dataclass
class Load:
    """What one run gave.

    accepted, delivered: messages a second. timeline: (seconds, accepted, arrived) so far.
    cpu: CPU seconds by unit until all had arrived. waits: seconds until each notice.
    drained: seconds after the last message was accepted until all had arrived.
    """

    accepted: float = 0
    delivered: float = 0
    messages: int = 0
    lost: int = 0
    drained: float = 0
    cpu: dict = field(default_factory=dict)
    waits: list = field(default_factory=list)
    timeline: list = field(default_factory=list)


class Crowd:
    """40 senders with sessions that stay open, a recipient for each, and pairs that watch."""

    def __init__(self, sending, receiving):
        """sending, receiving: the domains, which may be the same."""
        with ThreadPoolExecutor(8) as pool:
            senders = pool.map(fresh_account, [sending] * (SENDERS + PAIRS))
            recipients = pool.map(fresh_account, [receiving] * (SENDERS + PAIRS))
            inboxes = list(pool.map(Inbox, recipients))
            for inbox in pool.map(Inbox, senders := list(senders)):
                inbox.close()  # This login made the address.
            self.sessions = list(pool.map(Submission, senders))
        self.recipients = [inbox.account for inbox in inboxes]
        for inbox in inboxes[:SENDERS]:
            inbox.close()
        self.watchers = inboxes[SENDERS:]
        for inbox in self.watchers:
            inbox.idle()

    def close(self):
        """End all connections."""
        for connection in (*self.sessions, *self.watchers):
            connection.close()


class ByImap:
    """The mailboxes of a relay that keeps no maildirs, as a client of each one sees them."""

    def __init__(self, accounts):
        with ThreadPoolExecutor(8) as pool:
            self.inboxes = list(pool.map(Inbox, accounts))

    def messages(self, _accounts):
        """Return how many messages the mailboxes have."""
        return sum(inbox.messages() for inbox in self.inboxes)

    def close(self):
        """End all connections."""
        for inbox in self.inboxes:
            inbox.close()


class Run:
    """One run of a crowd."""

    def __init__(self, crowd, seconds, rate=None):
        """seconds: how long they send. rate: messages a second of all, None for what they can."""
        self.crowd, self.seconds, self.rate = crowd, seconds, rate
        self.began = time.perf_counter()
        self.end = self.began + seconds
        self.accepted = []  # the moments

    def send(self, number):
        """Be one of the senders until the end."""
        session, recipient = self.crowd.sessions[number], self.crowd.recipients[number].address
        every = SENDERS / self.rate if self.rate else 0
        due = self.began + every * number / SENDERS
        while time.perf_counter() < self.end:
            if every:
                time.sleep(max(0, due - time.perf_counter()))
                due += every
            session.send(recipient)
            session.confirm()
            self.accepted.append(time.perf_counter())

    def watch(self, number):
        """Be one of the pairs: send a message each second, and return the waits for the notices."""
        inbox, session = self.crowd.watchers[number], self.crowd.sessions[SENDERS + number]
        count, before, sent = self.seconds - WARM_UP, inbox.count, []

        def write():
            for second in range(count):
                due = self.began + WARM_UP + second + number / PAIRS
                time.sleep(max(0, due - time.perf_counter()))
                sent.append(session.send(inbox.account.address))
                session.confirm()
                self.accepted.append(time.perf_counter())

        writer = threading.Thread(target=write)
        writer.start()
        notices = read(inbox, before + count)
        writer.join()
        told = [
            next(moment for seen, moment in notices if seen > before + number)
            for number in range(count)
        ]
        return [moment - then for moment, then in zip(told, sent, strict=True)]

    def sample(self, receiving, first, timeline):
        """Note every half second what was accepted and what arrived, until all has arrived.

        After 60 s without a further message it ends, too: Postfix tries a message again after 30 s.
        """
        last, changed = -1, time.perf_counter()
        while True:
            now = time.perf_counter()
            arrived = receiving.messages(self.crowd.recipients) - first
            accepted = len(self.accepted)
            timeline.append((now - self.began, accepted, arrived))
            if arrived != last:
                last, changed = arrived, now
            sending = now < self.end + 1
            if not sending and (arrived >= accepted or now - changed > 60):
                return
            time.sleep(SAMPLE)


def read(inbox, count):
    """Wait until a client was told of `count` messages; return (number, moment) of each notice."""
    notices = []
    inbox.socket.settimeout(300)  # A full queue takes minutes.
    while inbox.count < count:
        notices.append(inbox.wait_for_count())
        if inbox.fetch() > notices[-1][0]:
            notices.append((inbox.count, time.perf_counter()))
    return notices


def rate(timeline, column, seconds):
    """Return the messages a second between the warm-up and the end of sending."""
    part = [row for row in timeline if WARM_UP <= row[0] <= seconds]
    return (part[-1][column] - part[0][column]) / (part[-1][0] - part[0][0])


def measure(crowd, machines, seconds=30, pace=None):
    """Let a crowd send; return the Load.

    machines: the boxes whose CPU counts; the last one has the mailboxes. Where these are no
    maildirs, 45 clients ask for their number by IMAP.
    pace: messages a second, None for as many as they can.
    """
    by_imap = None if machines[-1].mailboxes else ByImap(crowd.recipients)
    receiving = by_imap or machines[-1]
    first = receiving.messages(crowd.recipients)
    before = [machine.cpu() for machine in machines]
    shares.share(machines)
    run, load = Run(crowd, seconds, pace), Load()
    try:
        with ThreadPoolExecutor(SENDERS + PAIRS + 1) as pool:
            sampling = pool.submit(run.sample, receiving, first, load.timeline)
            watching = [pool.submit(run.watch, number) for number in range(PAIRS)]
            sending = [pool.submit(run.send, number) for number in range(SENDERS)]
            for job in (*sending, *watching, sampling):
                waits = job.result()
                load.waits += waits or []
    finally:
        shares.unshare()
        if by_imap:
            by_imap.close()
    after = [machine.cpu() for machine in machines]
    load.messages = len(run.accepted)
    load.lost = load.messages - load.timeline[-1][2]
    load.drained = max(0, load.timeline[-1][0] - seconds)
    load.accepted = rate(load.timeline, 1, seconds)
    load.delivered = rate(load.timeline, 2, seconds)
    for machine, then, now in zip(machines, before, after, strict=True):
        load.cpu[machine.name] = difference(now, then)
    return load
