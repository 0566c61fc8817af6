"""Idle clients cost imap-login little memory, and their sessions stay as they are."""

import imaplib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from relay.client import imap, new_account, tls_context
from support.dovecot_objects import path_of, without_object
from support.idle_client import IdleClient

OBJECT = path_of("imap-login")
PROCESSES = "$(pgrep -f '^/usr/lib/dovecot/imap-login')"
LARGE = 20_000_000  # bytes, as a large attachment
CLIENTS = 60


def large_message(size):
    """Return a message that cannot be compressed much."""
    line = "".join(f"{os.urandom(36).hex()}\r\n" for _ in range(size // 74))
    return f"Subject: large\r\n\r\n{line}".encode()


def starttls(relay, account):
    """Return a connection to port 143 that became TLS."""
    connection = imaplib.IMAP4(relay.domain, 143, timeout=20)
    connection.starttls(tls_context())
    connection.login(*account)
    return connection


def shared_port(relay, account):
    """Return a connection to port 443, which nginx passes on."""
    tls = tls_context()
    tls.set_alpn_protocols(["imap"])
    return imap(relay, account, 443, tls)


@pytest.mark.parametrize("connect", [imap, starttls, shared_port])
def test_large_message_goes_to_and_fro_unchanged(relay, connect):
    message = large_message(LARGE)
    connection = connect(relay, new_account(relay))
    assert connection.append("INBOX", None, None, message)[0] == "OK"
    connection.select("INBOX")
    _, [(_, fetched), _] = connection.fetch("1", "(BODY.PEEK[])")
    assert fetched == message
    connection.logout()


def test_client_that_reads_late_gets_everything(relay):
    """The buffers of both directions fill up while the client sends commands and reads nothing."""
    message, account = large_message(LARGE // 4), new_account(relay)
    with imap(relay, account) as connection:
        connection.append("INBOX", None, None, message)
    client = IdleClient(relay, account)
    client.send("f FETCH 1 (BODY.PEEK[])")
    for number in range(200):
        client.send(f"n{number} NOOP")
    others = [
        IdleClient(relay, new_account(relay)) for _ in range(4)
    ]  # These are served meanwhile.
    received = client.received
    while b"\r\nn199 OK" not in received[-200:]:
        data = client.socket.recv(65536)
        assert data
        received += data
    assert message in received
    for each in [client, *others]:
        each.close()


def processes_with_object(relay):
    """Return for each process of imap-login how many parts of it are mapped from the object."""
    counts = relay.run(f"for p in {PROCESSES}; do grep -c {OBJECT} /proc/$p/maps || true; done")
    return [int(line) for line in counts.stdout.split()]


def used(relay):
    """Return the memory of all processes of imap-login that no other process shares, in KB."""
    text = relay.run(f"for p in {PROCESSES}; do cat /proc/$p/smaps_rollup; done").stdout
    lines = [line.split() for line in text.splitlines()]
    return sum(int(line[1]) for line in lines if line[0] == "Private_Dirty:")


def test_memory_of_clients_who_left_is_given_back(relay):
    assert all(processes_with_object(relay))
    account = new_account(relay)
    accounts = [account, *(new_account(relay) for _ in range(3))]  # 20 clients for each at most
    before = used(relay)
    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(lambda n: imap(relay, accounts[n % 4]), range(CLIENTS)))
    grown = used(relay) - before
    for client in clients:
        client.shutdown()
    deadline = time.monotonic() + 20
    while (kept := used(relay) - before) > grown / 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert kept <= grown / 2


def status(relay):
    return relay.salt("chatmail_relay.status")["imap_memory"]


@pytest.fixture
def no_object(relay):
    with without_object(relay, "imap-login"):
        yield
    imap(relay, new_account(relay)).logout()
    assert all(processes_with_object(relay))
    assert "little memory" in status(relay)


def test_imap_login_runs_without_the_object(relay, no_object):
    imap(relay, new_account(relay)).logout()
    assert not any(processes_with_object(relay))
    assert "imap-login is missing" in status(relay)
