"""Logins a second, and the memory of clients that are connected and wait."""

import itertools
import resource
import time
from concurrent.futures import ThreadPoolExecutor

from bench.machine import difference
from bench.raw import Inbox, fresh_account, log_in

AT_ONCE = 16
AWAY = 60  # seconds after the clients left until the memory counts as given back or kept


def rate(function, arguments):
    """Call the function for each argument, 16 at once; return the calls a second."""
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(function, arguments))
    return len(arguments) / (time.perf_counter() - began)


def logins(machine, count):
    """Return new addresses a second, logins a second, CPU of both, and the accounts.

    count: how many addresses; each logs in twice, by TLS connections of their own. The CPU is in
    milliseconds a login, by unit.
    """
    accounts = [fresh_account(machine.domain) for _ in range(count)]
    looks = [machine.cpu()]
    rates = []
    for _ in range(2):
        rates.append(rate(log_in, accounts))
        looks.append(machine.cpu())
    cpu = [
        {unit: round(1000 * used / count, 3) for unit, used in difference(after, before).items()}
        for before, after in itertools.pairwise(looks)
    ]
    return *rates, dict(zip(("new", "existing"), cpu, strict=True)), accounts


def waiting_clients(machine, accounts, steps=4):
    """Connect a client for each account, all in IDLE; measure the box's memory.

    Returns KB by unit without clients, with all, and a while after they left; and a list of
    (clients, KB by unit).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    time.sleep(AWAY)  # The processes of earlier logins end, so that they do not count as these.
    before = machine.settled_memory()
    inboxes, growth = [], [(0, before)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for step in range(steps):
            part = accounts[len(accounts) * step // steps : len(accounts) * (step + 1) // steps]
            inboxes += pool.map(waiting, part)
            full = machine.settled_memory()
            growth.append((len(inboxes), full))
    for inbox in inboxes:
        inbox.close()
    time.sleep(AWAY)
    return before, full, machine.memory(), growth


def waiting(account):
    """Return a client in IDLE."""
    inbox = Inbox(account)
    inbox.idle()
    return inbox
