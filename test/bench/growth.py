"""Many messages through two relays, and how much the memory of each service grows by them.

A third of the messages stays on the first relay, a third goes from the first to the second one, and
a third comes back. After each round the recipients log in and delete what arrived, as clients do,
so that the mailboxes stay small. The memory is looked at while nobody is connected.
"""

import time
from concurrent.futures import ThreadPoolExecutor

from bench.load import SENDERS, Crowd
from bench.raw import Inbox

ROUNDS = 10
WARM_UP = 2  # rounds before these
# Seconds. Postfix keeps an idle process for 100 (postconf(5), max_idle), Dovecot for 60 to 120.
REST = 150
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


def phase(ways, rounds, each, say):
    """Let new crowds send for so many rounds. Return when the services had time to rest."""
    crowds = [Crowd(here.domain, there.domain) for here, there in ways]
    try:
        for number in range(rounds):
            for crowd, (_, receiving) in zip(crowds, ways, strict=True):
                one_round(crowd, receiving, each)
            say(f"growth: round {number + 1} of {rounds}, {len(ways) * SENDERS * each} messages")
    finally:
        for crowd in crowds:
            crowd.close()
    time.sleep(REST)


def look(machines):
    """Return {unit: (PSS, PSS without pages of files)} of the machines, in KB."""
    found = {}
    for machine in machines:
        whole, own = machine.settled_memory(), machine.memory("Pss_Anon")
        found |= {f"{machine.name} {unit}": (whole[unit], own[unit]) for unit in whole}
    return found


def measure(one, other, messages, say):
    """Send about so many messages after a warm-up; return their number, and look() before, after.

    say: a function that prints a line.
    """
    ways = [(one, one), (one, other), (other, one)]
    each = max(1, messages // (ROUNDS * len(ways) * SENDERS))
    phase(ways, WARM_UP, each, say)
    before = look((one, other))
    phase(ways, ROUNDS, each, say)
    return ROUNDS * len(ways) * SENDERS * each, before, look((one, other))


def percent(before, after):
    """Return by how many percent each unit grew, the most first.

    before, after: what look() returned. Pages of files do not count: the system takes them back,
    and those of the journal come and go. Units that had less than 3 MB are left out.
    """
    grown = {
        unit: round(100 * (after[unit][1] / own - 1), 1)
        for unit, (_, own) in before.items()
        if own >= SMALL and unit in after
    }
    return dict(sorted(grown.items(), key=lambda item: -item[1]))
