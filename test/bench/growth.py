"""Many messages through two relays, and how much the memory of each service grows by them.

A third of the messages stays on the first relay, a third goes from the first to the second one, and
a third comes back. After each round the recipients log in and delete what arrived, as clients do,
so that the mailboxes stay small.
"""

import time
from concurrent.futures import ThreadPoolExecutor

from bench.load import SENDERS, Crowd
from bench.raw import Inbox

ROUNDS = 10  # the first one is the warm-up
PATIENCE = 60  # seconds without a further message until the rest counts as lost
SMALL = 3 * 1024  # KB; a smaller unit is not counted, because one process more changes it


def send(crowd, number, count):
    """Be one of the senders: send `count` messages."""
    for _ in range(count):
        crowd.sessions[number].send(crowd.recipients[number].address)
        crowd.sessions[number].confirm()


def await_arrival(machine, accounts, count):
    """Wait until the mailboxes have `count` messages; raise RuntimeError when they do not come."""
    arrived, changed = -1, time.monotonic()
    while arrived < count:
        now = machine.messages(accounts)
        if now != arrived:
            arrived, changed = now, time.monotonic()
        elif time.monotonic() - changed > PATIENCE:
            raise RuntimeError(f"{arrived} of {count} messages arrived within {PATIENCE} s")
        time.sleep(0.2)


def empty(account):
    """Delete all messages of a mailbox, as a client."""
    inbox = Inbox(account)
    inbox.command("UID STORE 1:* +FLAGS.SILENT (\\Deleted)")
    inbox.command("EXPUNGE")
    inbox.close()


def one_round(crowd, receiving, each):
    """Let each sender send `each` messages, wait for all of them, and delete them."""
    accounts = crowd.recipients[:SENDERS]
    with ThreadPoolExecutor(SENDERS) as pool:
        list(pool.map(lambda number: send(crowd, number, each), range(SENDERS)))
    await_arrival(receiving, accounts, each * SENDERS)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(empty, accounts))


def memory(machines):
    """Return the PSS in KB of each unit of the machines, when it is settled."""
    return {
        f"{machine.name} {unit}": kb
        for machine in machines
        for unit, kb in machine.settled_memory().items()
    }


def measure(one, other, messages, say):
    """Send about so many messages; return how many there were, and the PSS after each round.

    say: a function that prints a line.
    """
    ways = [(one, one), (one, other), (other, one)]
    each = max(1, messages // (ROUNDS * len(ways) * SENDERS))
    crowds = [Crowd(here.domain, there.domain) for here, there in ways]
    looks = []
    try:
        for number in range(ROUNDS):
            for crowd, (_, receiving) in zip(crowds, ways, strict=True):
                one_round(crowd, receiving, each)
            looks.append(memory((one, other)))
            done = (number + 1) * len(ways) * SENDERS * each
            say(f"growth: {done} messages, {sum(looks[-1].values()) / 1024:.0f} MB in both boxes")
    finally:
        for crowd in crowds:
            crowd.close()
    return done, looks


def percent(looks):
    """Return by how many percent each unit grew since the warm-up, the most first.

    looks: the PSS of each unit in KB, after each round. Units of less than 3 MB are left out.
    """
    first, last = looks[0], looks[-1]
    grown = {
        unit: round(100 * (last.get(unit, 0) / kb - 1), 1)
        for unit, kb in first.items()
        if kb >= SMALL
    }
    return dict(sorted(grown.items(), key=lambda item: -item[1]))
