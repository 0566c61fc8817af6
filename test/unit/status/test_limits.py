"""The limits with their current values, from the kernel and from chatmail-accounts."""

import socket
import sys

import pytest
from chatmaild.status import commands, limits

ESTABLISHED, TIME_WAIT = "01", "06"


def encode(address, port):
    """Return an address and a port in the form of proc(5)."""
    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    words = [packed[start : start + 4] for start in range(0, len(packed), 4)]
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"


def connection(port, address, state=ESTABLISHED):
    """Return the line of a connection to a port of this machine."""
    own = "2001:db8::1" if ":" in address else "192.0.2.99"
    return f"   0: {encode(own, port)} {encode(address, 50000)} {state} 00000000:00000000 00:0 0\n"


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Return a function that writes the kernel's tables of IPv4 and IPv6 connections."""
    paths = tmp_path / "tcp", tmp_path / "tcp6"
    monkeypatch.setattr(limits, "TCP_TABLES", paths)

    def write(*contents):
        for path, lines in zip(paths, contents, strict=False):
            path.write_text("  sl  local_address rem_address   st\n" + "".join(lines))

    return write


@pytest.fixture
def relay(tmp_path, monkeypatch):
    """Return the settings of a relay."""
    monkeypatch.setattr(limits, "NOCREATE", tmp_path / "nocreate")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setattr(limits, "ACCOUNTS_LIMITS", f"http://127.0.0.1:{port}/limits")
    return {
        "max_load_1m": 4,
        "min_available_memory": 10**8,
        "min_free_disk_space": 10**9,
        "max_registrations_per_hour": 100,
        "max_imap_connections": 10000,
        "max_smtp_connections": 1000,
        "max_smtp_connections_per_ip": 200,
    }


def test_limits_are_shown_with_their_values(relay, tables, tmp_path, monkeypatch):
    tables(
        [
            *[connection(465, "192.0.2.1")] * 2,
            connection(587, "192.0.2.2"),
            *[connection(10465, "127.0.0.1")] * 9,
            *[connection(993, "192.0.2.1")] * 4,
            connection(10993, "127.0.0.1"),
            connection(993, "192.0.2.1", TIME_WAIT),
            connection(22, "192.0.2.1"),
        ],
        [connection(25, "::ffff:192.0.2.1"), connection(143, "2001:db8::7")],
    )
    known = {
        "max_load_1m": 0.5,
        "min_available_memory": 10**9,
        "min_free_disk_space": 10**10,
        "max_registrations_per_hour": 7,
    }
    monkeypatch.setattr(limits, "_ask_accounts", lambda: known)
    found = commands.list_limits(relay)
    assert {name: each["value"] for name, each in found.items()} == {
        **known,
        "max_imap_connections": 6,
        "max_smtp_connections": 13,
        "max_smtp_connections_per_ip": 3,
        "nocreate": False,
    }
    assert found["max_load_1m"]["limit"] == 4
    assert found["max_smtp_connections_per_ip"]["limit"] == 200
    (tmp_path / "nocreate").touch()
    assert commands.list_limits(relay)["nocreate"] == {"value": True, "limit": False}


def test_limits_of_a_silent_service_are_unknown(relay):
    found = commands.list_limits(relay)
    assert found["max_load_1m"] == {"value": None, "limit": 4}
    assert found["max_registrations_per_hour"] == {"value": None, "limit": 100}
    assert found["max_imap_connections"]["value"] >= 0


def test_machine_without_ipv6_has_one_table(relay, tables):
    tables([connection(993, "192.0.2.1")])
    assert commands.list_limits(relay)["max_imap_connections"]["value"] == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_of_this_machine_are_read_from_the_kernel(host):
    try:
        server = socket.create_server((host, 0), family=socket.getaddrinfo(host, 0)[0][0])
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with server, socket.create_connection(server.getsockname()[:2]):
        port = server.getsockname()[1]
        found = [str(address) for local, address in limits._list_connections() if local == port]
    assert found == [host]
