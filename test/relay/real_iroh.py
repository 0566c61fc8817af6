"""Two Delta Chat cores meet at a real iroh-relay 0.35, with no direct way between them.

`make realtime` runs this file. `make test` does not, because cargo must build the program. Each
core runs on its own host, and the bridge of the lab passes no packet from one host to the other.
"""

import contextlib
import hashlib
import socket
import subprocess
import time
import zipfile

import pytest
from deltachat_rpc_client import DeltaChat, EventType, Rpc
from relay.client import new_account
from relay.downloads import download_server
from support.converging import apply, failed, not_as_expected
from support.delta_chat import CORE, online_account
from support.devices import server_entry
from support.real_iroh import iroh_relay

# Hosts of the lab's network (test/lab/network.py), beside the client.
PEERS = {"chatmail-peer-a": "203", "chatmail-peer-b": "204"}
BRIDGE = "/run/netns/chatmail-lab"
WORDS = 20
STARTED = "systemctl show --value --property=ActiveEnterTimestamp chatmail-iroh"


def inside(namespace, *command, check=True):
    """Run a program in a network namespace. Return the CompletedProcess."""
    argv = ["nsenter", f"--net={namespace}", *command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=check)


@pytest.fixture(scope="module")
def peers(lab_network):
    """Make two hosts that reach all of the lab, but not each other. Yield their namespaces."""
    for number, name in enumerate(PEERS):
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "add", name], check=True)
        host, port, last = f"/run/netns/{name}", f"peer{number}", PEERS[name]
        link = ["peer", "name", "eth0", "netns", name]
        inside(BRIDGE, "ip", "link", "add", port, "type", "veth", *link)
        inside(BRIDGE, "ip", "link", "set", port, "master", "br0", "up")
        inside(BRIDGE, "ip", "link", "set", port, "type", "bridge_slave", "isolated", "on")
        inside(host, "ip", "link", "set", "lo", "up")
        inside(host, "ip", "address", "add", f"198.51.100.{last}/24", "dev", "eth0")
        inside(
            host, "ip", "-6", "address", "add", f"2001:db8:25::{last}/64", "dev", "eth0", "nodad"
        )
        inside(host, "ip", "link", "set", "eth0", "up")
    try:
        yield [f"/run/netns/{name}" for name in PEERS]
    finally:
        for name in PEERS:
            subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture(scope="module", params=["relay", "ip_relay"])
def meeting_place(request, release):
    """A relay that runs the real program. Both forms have a self-signed certificate."""
    relay = request.getfixturevalue(request.param)
    content = iroh_relay().read_bytes()
    own = {"iroh_relay": None, "iroh_binary": {"sha256": hashlib.sha256(content).hexdigest()}}
    with download_server(relay, lambda _: content) as url:
        own["iroh_binary"]["url"] = f"{url}/real.tar.gz"
        assert failed(apply(relay, "chatmail", **own)) == set()
        assert not_as_expected(apply(relay, "chatmail", **own)) == {}
        yield relay
    assert failed(apply(relay, "chatmail")) == set()


@contextlib.contextmanager
def core_at(host, directory):
    """A Delta Chat core on one of the two hosts, which keeps its accounts below directory."""
    with Rpc(str(directory), ["nsenter", f"--net={host}", str(CORE)]) as rpc:
        yield DeltaChat(rpc)


@pytest.fixture(scope="module")
def channel(meeting_place, peers, tmp_path_factory):
    """The same webxdc app in two accounts, as (message of one, message of the other)."""
    directory = tmp_path_factory.mktemp("cores")
    app = directory / "app.xdc"
    with zipfile.ZipFile(app, "w") as made:
        made.writestr("index.html", "<html></html>")
        made.writestr("manifest.toml", 'name = "App"')
    with core_at(peers[0], directory / "a") as here, core_at(peers[1], directory / "b") as there:
        alice = online_account(here, meeting_place, "Alice")
        bob = online_account(there, meeting_place, "Bob")
        bob.secure_join(alice.get_qr_code())
        alice.wait_for_securejoin_inviter_success()
        bob.wait_for_securejoin_joiner_success()
        sent = alice.create_chat(bob).send_message(text="play", file=str(app))
        yield sent, bob.wait_for_incoming_msg()


def lines(relay, since):
    """Return the program's lines in the journal since a time in Unix seconds."""
    relay.run("journalctl --sync")
    unit = f"_SYSTEMD_UNIT=chatmail-iroh.service _TRANSPORT=stdout --since=@{since}"
    return relay.run(f"journalctl {unit} --output=cat -q", check=False).stdout.splitlines()


def clients(relay):
    """Return the number of the program's connections."""
    return len(relay.run("ss -Htn state established sport = 3340").stdout.splitlines())


def answer_to(host, address):
    """Return the error when a host connects to a port of another host where nothing listens."""
    # The kernel asks for the address three times, and waits a second each time.
    connect = ["timeout", "10", "bash", "-c", f"exec 3<>/dev/tcp/{address}/1"]
    return inside(host, *connect, check=False).stderr


def test_peers_reach_the_relay_and_not_each_other(meeting_place, peers):
    """Otherwise the data of the next test would go directly from one to the other."""
    for host, other in zip(peers, reversed(PEERS.values()), strict=True):
        assert "Connection refused" in answer_to(host, meeting_place.ip)
        for address in (f"198.51.100.{other}", f"2001:db8:25::{other}"):
            assert "No route to host" in answer_to(host, address)


def test_data_pass_between_two_cores_that_have_no_direct_way(meeting_place, channel):
    """Iroh accepts no self-signed certificate, so clients get the URL of the relay without TLS."""
    assert server_entry(meeting_place, new_account(meeting_place), "irohrelay") == (
        f"http://{meeting_place.domain}"
    )
    first, second = channel
    began = time.monotonic()
    first.send_webxdc_realtime_advertisement()
    second.account.wait_for_event(EventType.WEBXDC_REALTIME_ADVERTISEMENT_RECEIVED)
    second.send_webxdc_realtime_advertisement()
    first.account.wait_for_event(EventType.WEBXDC_REALTIME_ADVERTISEMENT_RECEIVED)
    first.send_webxdc_realtime_data(b"first")
    assert second.account.wait_for_realtime_data(second.id) == b"first"
    print(f"\nfirst data {time.monotonic() - began:.2f} s after the first advertisement")
    began = time.monotonic()
    for number in range(WORDS):
        for sender, receiver in ((second, first), (first, second)):
            word = f"{number} of {WORDS}".encode()
            sender.send_webxdc_realtime_data(word)
            assert receiver.account.wait_for_realtime_data(receiver.id) == word
    print(f"{(time.monotonic() - began) / WORDS / 2 * 1000:.1f} ms one way")
    assert clients(meeting_place) >= 2


@pytest.mark.usefixtures("channel")
def test_clients_write_nothing_to_the_journal(meeting_place):
    """Once, any client could fill the journal: 3371 lines in one burst."""
    began = meeting_place.run(f'date +%s -d "$({STARTED})"').stdout.strip()
    upgrade = f"GET /relay HTTP/1.1\r\nHost: {meeting_place.domain}\r\n"
    upgrade += "Upgrade: iroh derp http\r\nConnection: upgrade\r\n\r\n"
    for sent in (upgrade, f"{upgrade}{'x' * 100}", "GET /relay HTTP/1.1\r\nHost: a\r\n\r\n"):
        for _ in range(20):
            with socket.create_connection((meeting_place.ip, 80), timeout=10) as connection:
                connection.sendall(sent.encode())
                assert connection.recv(100)
    assert lines(meeting_place, began) == []


def test_browsers_are_bound_to_nothing(meeting_place):
    command = ["curl", "--silent", "--insecure", "--head", "--request", "GET"]
    for scheme in ("http", "https"):
        answer = meeting_place.client(*command, f"{scheme}://{meeting_place.domain}/generate_204")
        assert " 204" in answer.stdout.splitlines()[0]
        assert "strict-transport-security" not in answer.stdout.lower()
