"""imap-hibernate hands idle clients back, with the object that closes inotify in a thread."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from relay.client import encrypted, new_account, smtp
from support.dovecot_objects import path_of, without_object
from support.idle_client import IdleClient, live_imap_processes

OBJECT = path_of("imap-hibernate")
PROCESS = "$(pgrep -x imap-hibernate)"
CLIENTS = 30


@pytest.fixture
def group(relay):
    """Clients that hibernate, and a sender."""
    with ThreadPoolExecutor(8) as pool:
        accounts = list(pool.map(new_account, [relay] * (CLIENTS + 1)))
    with contextlib.ExitStack() as stack:
        clients = [IdleClient(relay, account) for account in accounts[1:]]
        for client in clients:
            stack.callback(client.close)
            client.socket.settimeout(10)
            client.idle()
        wait_until_all_hibernate(relay)
        yield accounts[0], accounts[1:], clients


def wait_until_all_hibernate(relay):
    deadline = time.monotonic() + 20
    while live_imap_processes(relay) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert live_imap_processes(relay) == 0


def send_to_all(relay, sender, recipients):
    """Send one message to all of them, as a chat group does."""
    addresses = [recipient.address for recipient in recipients]
    with smtp(relay, sender) as connection:
        message = encrypted(sender.address, ", ".join(addresses))
        connection.sendmail(sender.address, addresses, message)


def instances(relay):
    """Return how many instances of inotify imap-hibernate has open."""
    listed = relay.run(f"ls -l /proc/{PROCESS}/fd | grep -c inotify || true").stdout
    return int(listed)


def test_whole_group_is_woken_and_hibernates_again(relay, group):
    sender, recipients, clients = group
    process = relay.run(f"echo {PROCESS}").stdout
    assert int(relay.run(f"grep -c {OBJECT} /proc/{PROCESS}/maps").stdout) > 0
    waiting = instances(relay)
    assert waiting >= CLIENTS
    for _ in range(3):
        send_to_all(relay, sender, recipients)
        for client in clients:
            client.wait_for_message()
        wait_until_all_hibernate(relay)
    # One for each client that waits: none was kept, and none was lost.
    assert instances(relay) == waiting
    assert relay.run(f"echo {PROCESS}").stdout == process


def status(relay):
    return relay.salt("chatmail_relay.status")["imap_idle"]


@pytest.fixture
def no_object(relay):
    with without_object(relay, "imap-hibernate"):
        yield
    assert "is missing" not in status(relay)


def test_imap_hibernate_works_without_the_object(relay, no_object, group):
    sender, recipients, clients = group
    assert "imap-hibernate is missing" in status(relay)
    send_to_all(relay, sender, recipients)
    for client in clients:
        client.wait_for_message()
