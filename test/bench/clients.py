"""Logins a second, and the memory of clients that are connected and wait."""

import resource
import time
from concurrent.futures import ThreadPoolExecutor

from bench import baselines
from bench.machine import difference
from bench.raw import Inbox, fresh_account, greet, log_in
from relay.client import Account

AT_ONCE = 16
AWAY = 60  # seconds after the clients left until the memory counts as given back or kept


def rate(function, arguments):
    """Call the function for each argument, 16 at once; return the calls a second."""
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(function, arguments))
    return len(arguments) / (time.perf_counter() - began)


def timed(machine, function, accounts):
    """Call the function for each account; return the calls a second, and ms of CPU of each unit.

    The CPU is that of the box for one call.
    """
    before = machine.cpu()
    found = rate(function, accounts)
    used = difference(machine.cpu(), before)
    return found, {unit: round(1000 * cpu / len(accounts), 3) for unit, cpu in used.items()}


def logins(machine, count):
    """Return new addresses a second, logins a second, CPU of both, and the accounts.

    count: how many addresses; each logs in twice, by TLS connections of their own.
    """
    accounts = [fresh_account(machine.domain) for _ in range(count)]
    new, new_cpu = timed(machine, log_in, accounts)
    known, known_cpu = timed(machine, log_in, accounts)
    return new, known, {"new": new_cpu, "existing": known_cpu}, accounts


def compared_logins(machine, accounts):
    """Return {kind: (logins a second, ms of CPU by unit)} for four kinds of logins.

    ours: as the relay is. static: a static passdb, which has the hash of one account, so all log in
    with its password; TLS, hash, mailboxes, plugins stay as they are. unchecked: a static passdb
    that checks no password. tls: a TLS connection up to the greeting, and no login.
    """
    path = f"{machine.mailboxes}/{accounts[0].address}/password"
    stored = machine.path(path).read_text().strip()
    one_password = [Account(account.address, accounts[0].password) for account in accounts]
    found = {"ours": timed(machine, log_in, accounts), "tls": timed(machine, greet, accounts)}
    with baselines.static_passdb(machine, stored):
        log_in(one_password[-1])  # The first login waits until Dovecot has started.
        found["static"] = timed(machine, log_in, one_password)
    with baselines.static_passdb(machine):
        log_in(one_password[-1])
        found["unchecked"] = timed(machine, log_in, one_password)
    return found


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
            growth.append((len(inboxes), machine.settled_memory()))
    time.sleep(AWAY)  # Processes that served the logins, and serve nobody now, end as well.
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
