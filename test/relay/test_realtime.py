"""Calls between clients: STUN and TURN by coturn (contract, section 13)."""

import base64
import hashlib
import hmac
import json
import re
import socket
import time

import pytest
from relay.client import new_account
from support.converging import apply, changed, failed, not_as_expected
from support.devices import server_entry

DAY = 24 * 3600
SECRET = "/etc/chatmail/turn-secret"
RELAY_PORTS = (49152, 65535)


@pytest.fixture(scope="module")
def account(relay):
    return new_account(relay)


# STUN and TURN


def turn_password(secret, user):
    digest = hmac.digest(secret.encode(), user.encode(), hashlib.sha1)
    return base64.b64encode(digest).decode()


@pytest.fixture
def credentials(relay, account):
    """Return the user and the password that a client gets."""
    _, _, user, password = server_entry(relay, account, "turn").split(":")
    return user, password


def turn_client(relay, user, password, *options):
    """Ask for an allocation and send a message through it; return the output of coturn's client.

    options: the peer (see turnutils_uclient(1)). The default is -y, a second client of the program.
    """
    command = ["turnutils_uclient", "-v", "-c", "-n", "1", "-m", "1", *(options or ["-y"])]
    login = ["-u", user, "-w", password] if user else []
    done = relay.client(*command, *login, relay.ip, check=False)
    return done.stdout + done.stderr


def relayed_from(output):
    """Return (address, port) of the first allocation in the output of turnutils_uclient."""
    found = re.search(r"Received relay addr: ([0-9.]+):([0-9]+)", output)
    assert found, output
    return found[1], int(found[2])


def test_client_learns_its_address_by_stun(relay):
    output = relay.client("turnutils_stunclient", relay.ip).stdout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Connecting a datagram socket sends nothing. It only chooses the address.
        probe.connect((relay.ip, 9))
        assert f"UDP reflexive addr: {probe.getsockname()[0]}:" in output


def test_credentials_of_metadata_get_an_allocation_that_relays(relay, credentials):
    output = turn_client(relay, *credentials)
    address, port = relayed_from(output)
    assert address == relay.ip
    assert RELAY_PORTS[0] <= port <= RELAY_PORTS[1]
    assert "tot_send_msgs=2, tot_recv_msgs=2" in output


def forged(secret, user, password):
    return user, turn_password("not the relay's", user)


def prolonged(secret, user, password):
    return str(int(user) + DAY), password


def expired(secret, user, password):
    past = str(int(time.time()) - 10)
    return past, turn_password(secret, past)


def without(secret, user, password):
    return "", ""


@pytest.mark.parametrize("wrong", [forged, prolonged, expired, without])
def test_wrong_credentials_get_no_allocation(relay, credentials, wrong):
    secret = relay.run(["cat", SECRET]).stdout.strip()
    assert credentials[1] == turn_password(secret, credentials[0])
    output = turn_client(relay, *wrong(secret, *credentials))
    assert "allocate response received" in output
    assert "ERROR: Cannot complete Allocation" in output
    assert "Received relay addr" not in output


INSIDE_4 = ["127.0.0.1", "0.0.0.0", "10.1.2.3", "172.31.0.1", "192.168.1.1", "169.254.1.1"]
INSIDE_4 += ["100.64.0.1", "240.0.0.1"]
INSIDE_6 = ["::1", "::", "fe80::1", "fd00::1"]
# The same addresses in the form of IPv6.
INSIDE_6 += ["::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::a00:1", "2002:a00:1::"]


@pytest.mark.parametrize("peer", INSIDE_4 + INSIDE_6)
def test_nothing_is_relayed_to_what_is_not_the_public_internet(relay, credentials, peer):
    family = ["-x"] if ":" in peer else []
    output = turn_client(relay, *credentials, *family, "-e", peer, "-r", "53")
    assert "Received relay addr" in output
    assert "error 403 (Forbidden IP)" in output


def test_turnserver_listens_on_one_udp_port_alone(relay):
    listening = relay.run("ss -Hlntup | grep turnserver").stdout.splitlines()
    ports = {(line.split()[0], int(line.split()[4].rpartition(":")[2])) for line in listening}
    # Ports that relay for the clients of other tests are left out.
    assert {each for each in ports if each[1] < RELAY_PORTS[0]} == {("udp", 3478)}
    assert {proto for proto, _ in ports} == {"udp"}


def test_secret_is_read_by_those_two_who_need_it_and_shown_to_nobody(relay, credentials):
    assert relay.run(["stat", "-c", "%a %U:%G", SECRET]).stdout == "640 root:vmail\n"
    whole = "/run/turnserver/turnserver.conf"
    assert relay.run(["stat", "-c", "%a %U", whole]).stdout == "600 turnserver\n"
    secret = relay.run(["cat", SECRET]).stdout.strip()
    assert len(base64.b64decode(secret)) == 32
    assert relay.run(["grep", "-c", "-F", secret, whole]).stdout == "1\n"
    turn_client(relay, *credentials)
    assert secret not in relay.run("ps -eww -o args; systemctl show coturn").stdout
    assert secret not in relay.run("journalctl --no-pager --output=cat").stdout
    shown = f"grep -rlF {secret} /etc /var/log /var/cache/salt /run/salt 2>/dev/null"
    assert relay.run(shown, check=False).stdout == f"{SECRET}\n"


def test_no_log_line_tells_who_relayed(relay, credentials):
    began = relay.run("date +%s.%N").stdout.strip()
    relayed_from(turn_client(relay, *credentials))
    relay.run("journalctl --sync")
    journal = relay.run(f"journalctl -t turnserver --no-pager --since=@{began}").stdout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((relay.ip, 9))
        assert probe.getsockname()[0] not in journal
    assert credentials[0] not in journal
    # It also writes no file.
    assert relay.run("ls /var/log/turn* /var/tmp/turn*", check=False).stdout == ""


@pytest.mark.parametrize("loss", ["rm {}", ": > {}"])
def test_lost_secret_is_made_anew_and_shown_in_no_report(relay, account, loss):
    before = relay.run(["cat", SECRET]).stdout.strip()
    relay.run(loss.format(SECRET))
    predicted = apply(relay, "chatmail.realtime", test=True)
    report = apply(relay, "chatmail.realtime")
    assert failed(report) == set()
    both = changed(predicted) & changed(report)
    assert {"chatmail secret of TURN is made", "chatmail TURN service"} <= both
    secret = relay.run(["cat", SECRET]).stdout.strip()
    assert secret not in ("", before)
    assert secret not in json.dumps(report)
    _, _, *credentials = server_entry(relay, account, "turn").split(":")
    assert "tot_recv_msgs=2" in turn_client(relay, *credentials)
    assert not_as_expected(apply(relay, "chatmail.realtime")) == {}


def test_relay_behind_nat_gives_out_the_address_that_the_world_knows(relay, credentials):
    public = "203.0.113.7"
    try:
        apply(relay, "chatmail.realtime", dns={"addresses": [public]})
        assert relayed_from(turn_client(relay, *credentials))[0] == public
    finally:
        apply(relay, "chatmail.realtime")
    assert relayed_from(turn_client(relay, *credentials))[0] == relay.ip


def test_relay_without_ipv6_neither_listens_nor_relays_by_it(relay, credentials):
    listening = "ss -Hlnup | grep turnserver"
    assert "[" in relay.run(listening).stdout
    try:
        apply(relay, "chatmail.realtime", disable_ipv6=True)
        assert "[" not in relay.run(listening).stdout
        relayed_from(turn_client(relay, *credentials))
        assert "Received relay addr" not in turn_client(relay, *credentials, "-y", "-x")
    finally:
        apply(relay, "chatmail.realtime")


def test_turn_works_after_a_reboot(relay, account):
    relay.reboot()
    relay.wait_until(
        lambda: relay.run("systemctl is-active coturn", check=False).stdout == "active\n"
    )
    entry = relay.wait_until(lambda: server_entry_or_none(relay, account, "turn"))
    assert "tot_recv_msgs=2" in turn_client(relay, *entry.split(":")[2:])


def server_entry_or_none(relay, account, name):
    """Return an entry, None while Dovecot does not answer."""
    try:
        return server_entry(relay, account, name)
    except OSError:
        return None
