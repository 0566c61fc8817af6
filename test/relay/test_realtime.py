"""Realtime between clients: STUN and TURN by coturn, and the iroh relay (contract, section 13)."""

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import re
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from relay.client import new_account, tls_context
from relay.downloads import download_server
from support.converging import apply, failed, ids, not_as_expected
from support.devices import server_entry

DAY = 24 * 3600
SECRET = "/etc/chatmail/turn-secret"
PROGRAM = "/usr/local/bin/iroh-relay"
RELAY_PORTS = (49152, 65535)
# The part and what of other parts depends on its settings; quicker than the whole relay.
PART = "chatmail.nginx,chatmail.realtime"
# What fails where the program cannot be had, and nothing besides.
IROH_STATES = {"iroh relay program", "iroh relay service"}


@pytest.fixture(scope="module")
def account(relay):
    return new_account(relay)


def changed(report):
    """Return the states that did something or, in a dry run, would do it."""
    return ids(report, lambda state: state["changes"] or state["result"] is None)


# STUN and TURN


def turn_password(secret, user):
    digest = hmac.digest(secret.encode(), user.encode(), hashlib.sha1)
    return base64.b64encode(digest).decode()


@pytest.fixture
def credentials(relay, account):
    """User and password as a client gets them."""
    _, _, user, password = server_entry(relay, account, "turn").split(":")
    return user, password


def turn_client(relay, user, password, *options):
    """Ask for an allocation, send a message through it; return what coturn's client said.

    options: what it sends to (see turnutils_uclient(1)); by default -y, another client of its own.
    """
    command = ["turnutils_uclient", "-v", "-c", "-n", "1", "-m", "1", *(options or ["-y"])]
    login = ["-u", user, "-w", password] if user else []
    done = relay.client(*command, *login, relay.ip, check=False)
    return done.stdout + done.stderr


def relayed_from(said):
    """Return (address, port) of the first allocation that turnutils_uclient tells of."""
    found = re.search(r"Received relay addr: ([0-9.]+):([0-9]+)", said)
    assert found, said
    return found[1], int(found[2])


def test_client_learns_its_address_by_stun(relay):
    said = relay.client("turnutils_stunclient", relay.ip).stdout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: connecting a datagram socket only chooses the address.
        probe.connect((relay.ip, 9))
        assert f"UDP reflexive addr: {probe.getsockname()[0]}:" in said


def test_credentials_of_metadata_get_an_allocation_that_relays(relay, credentials):
    said = turn_client(relay, *credentials)
    address, port = relayed_from(said)
    assert address == relay.ip
    assert RELAY_PORTS[0] <= port <= RELAY_PORTS[1]
    assert "tot_send_msgs=2, tot_recv_msgs=2" in said


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
    said = turn_client(relay, *wrong(secret, *credentials))
    assert "allocate response received" in said
    assert "ERROR: Cannot complete Allocation" in said
    assert "Received relay addr" not in said


INSIDE_4 = ["127.0.0.1", "0.0.0.0", "10.1.2.3", "172.31.0.1", "192.168.1.1", "169.254.1.1"]
INSIDE_4 += ["100.64.0.1", "240.0.0.1"]
INSIDE_6 = ["::1", "::", "fe80::1", "fd00::1"]
# The same machines by another name.
INSIDE_6 += ["::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.1.2.3", "64:ff9b::a00:1", "2002:a00:1::"]


@pytest.mark.parametrize("peer", INSIDE_4 + INSIDE_6)
def test_nothing_is_relayed_to_what_is_not_the_public_internet(relay, credentials, peer):
    family = ["-x"] if ":" in peer else []
    said = turn_client(relay, *credentials, *family, "-e", peer, "-r", "53")
    assert "Received relay addr" in said
    assert "error 403 (Forbidden IP)" in said


def test_turnserver_listens_on_one_udp_port_alone(relay):
    listening = relay.run("ss -Hlntup | grep turnserver").stdout.splitlines()
    ports = {(line.split()[0], int(line.split()[4].rpartition(":")[2])) for line in listening}
    # Those that relay for the clients of other tests are not for everybody.
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
    assert {"secret of TURN is made", "TURN service"} <= changed(predicted) & changed(report)
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
    """Return an entry, None while Dovecot is not there."""
    try:
        return server_entry(relay, account, name)
    except OSError:
        return None


# The iroh relay


SILENT = "iroh-relay does not listen on 127.0.0.1:3340; expected is version 0.35 for this machine"
# Programs that are no iroh relay, and what the journal says of them.
WRONG = {
    "ends": (b"#!/bin/sh\necho wrong option >&2; exit 2\n", SILENT),
    "silent": (b"#!/bin/sh\nexec sleep infinity\n", SILENT),
    "foreign": (b"\x7fELF of another architecture", "Exec format error"),
}


def stand_in(version):
    """Return a program that answers with this version, or a wrong one, as bytes."""
    if version in WRONG:
        return WRONG[version][0]
    text = Path(__file__).with_name("iroh_stand_in.py").read_text()
    return text.replace('VERSION = "one"', f'VERSION = "{version}"').encode()


@pytest.fixture(scope="module")
def source(relay):
    """The URL on a host beside the relay where `/<version>.tar.gz` is to be had."""
    relay.needs_lab("a download server beside it")
    with download_server(relay, stand_in) as url:
        yield url
    assert failed(apply(relay, "chatmail")) == set()


def own_iroh(source, version="one", sha256=None):
    """Return the settings of a relay that runs this version of the stand-in."""
    digest = sha256 or hashlib.sha256(stand_in(version)).hexdigest()
    return {
        "iroh_relay": None,
        "iroh_binary": {"url": f"{source}/{version}.tar.gz", "sha256": digest},
    }


@pytest.fixture
def iroh(relay, source):
    """The relay with version one of the stand-in, running."""
    assert failed(apply(relay, PART, **own_iroh(source))) == set()
    relay.wait_until(lambda: ask(relay, "/ping") == (200, b"one"))


def ask(relay, path):
    """Return (status, body) of a request by HTTPS."""
    try:
        url = f"https://{relay.domain}{path}"
        with urllib.request.urlopen(url, timeout=10, context=tls_context()) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def process(relay):
    """Return the pid of the iroh relay, "0" if there is none."""
    return relay.run("systemctl show --value --property=MainPID chatmail-iroh").stdout.strip()


def exchange_words(connection, host):
    """Upgrade a request to /relay to a stream, as iroh does, and let the stand-in echo."""
    connection.sendall(
        f"GET /relay HTTP/1.1\r\nHost: {host}\r\n"
        "Upgrade: iroh derp http\r\nConnection: upgrade\r\n\r\n".encode()
    )
    stream = connection.makefile("rb")
    assert stream.readline().startswith(b"HTTP/1.1 101 ")
    headers = list(iter(stream.readline, b"\r\n"))
    assert b"upgrade: iroh derp http\r\n" in [header.lower() for header in headers]
    for word in (b"there\n", b"and back\n"):
        connection.sendall(word)
        assert stream.readline() == word


@pytest.mark.usefixtures("iroh")
def test_iroh_relay_is_reached_by_its_three_paths(relay, account):
    # The lab's relay has a self-signed certificate, which iroh does not take.
    assert server_entry(relay, account, "irohrelay") == f"http://{relay.domain}"
    assert ask(relay, "/ping") == (200, b"one")
    assert ask(relay, "/generate_204") == (204, b"")
    with (
        socket.create_connection((relay.domain, 443), timeout=10) as plain,
        tls_context().wrap_socket(plain, server_hostname=relay.domain) as connection,
    ):
        exchange_words(connection, relay.domain)


@pytest.mark.usefixtures("iroh")
def test_iroh_relay_runs_as_nobody_else_and_listens_to_nginx_alone(relay):
    owner = relay.run(f"ps -o user= -p {process(relay)}").stdout.strip()
    assert owner not in ("root", "vmail", "www-data", "nobody")
    assert relay.run(f"stat -c '%a %U:%G' {PROGRAM}").stdout == "755 root:root\n"
    listening = relay.run("ss -Hlntup sport = 3340").stdout.splitlines()
    assert [line.split()[4] for line in listening] == ["127.0.0.1:3340"]


@pytest.mark.usefixtures("iroh")
def test_second_run_with_an_iroh_relay_changes_nothing(relay, source):
    own = own_iroh(source)
    # What the fixture left out of the first run.
    assert failed(apply(relay, "chatmail", **own)) == set()
    assert not_as_expected(apply(relay, "chatmail", **own)) == {}
    assert not_as_expected(apply(relay, "chatmail", **own, test=True)) == {}


@pytest.mark.usefixtures("iroh")
def test_wrong_digest_fails_the_run_and_keeps_the_old_program(relay, source):
    before, pid = relay.run(["sha256sum", PROGRAM]).stdout, process(relay)
    tampered = own_iroh(source, "two", sha256=hashlib.sha256(b"what was published").hexdigest())
    pillar = json.dumps({"chatmail": tampered})
    command = [
        "salt-call",
        "--local",
        "--retcode-passthrough",
        "state.apply",
        "chatmail",
    ]
    done = relay.run([*command, f"pillar={pillar}"], check=False)
    assert done.returncode != 0
    assert "the digest of iroh-relay in it is" in done.stdout
    assert failed(apply(relay, PART, **tampered)) == IROH_STATES
    assert relay.run(["sha256sum", PROGRAM]).stdout == before
    assert process(relay) == pid
    assert ask(relay, "/ping") == (200, b"one")
    assert relay.run("find /usr/local/bin -name '.iroh*'").stdout == ""


@pytest.mark.usefixtures("iroh")
def test_new_version_takes_the_place_of_the_old_one(relay, source):
    pid = process(relay)
    predicted = apply(relay, PART, **own_iroh(source, "two"), test=True)
    assert ask(relay, "/ping") == (200, b"one")
    report = apply(relay, PART, **own_iroh(source, "two"))
    assert failed(report) == set()
    assert changed(predicted) == changed(report)
    relay.wait_until(lambda: ask(relay, "/ping") == (200, b"two"))
    assert process(relay) != pid


@pytest.mark.usefixtures("iroh")
@pytest.mark.parametrize("elsewhere", ["https://iroh.example.org", ""])
def test_relay_that_points_elsewhere_runs_none(relay, account, elsewhere):
    report = apply(relay, PART, iroh_relay=elsewhere)
    assert failed(report) == set()
    assert server_entry(relay, account, "irohrelay") == (elsewhere or None)
    assert ask(relay, "/ping")[0] == 404
    assert process(relay) == "0"
    left = relay.run(f"ls {PROGRAM} /etc/chatmail/iroh* /etc/systemd/system/*iroh*", check=False)
    assert left.stdout == ""
    assert not_as_expected(apply(relay, PART, iroh_relay=elsewhere)) == {}
    assert not_as_expected(apply(relay, PART, iroh_relay=elsewhere, test=True)) == {}


def test_program_that_cannot_be_had_takes_nothing_else_down(relay, source):
    apply(relay, PART, iroh_relay="")
    # Port 1 of that host has nobody.
    nowhere = own_iroh(f"{source.rpartition(':')[0]}:1")
    report = apply(relay, "chatmail", **nowhere)
    assert failed(report) == IROH_STATES
    assert relay.run("systemctl is-active coturn postfix dovecot nginx").stdout == "active\n" * 4
    assert ask(relay, "/ping")[0] == 502
    assert new_account(relay)


# Without TLS, for what a client cannot do with it.


def ask_port_80(relay, path, **headers):
    """Return (status, headers) of a request to port 80; a redirect is not followed."""
    connection = http.client.HTTPConnection(relay.ip, 80, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": relay.domain, **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers


@pytest.mark.usefixtures("iroh")
def test_self_signed_relay_serves_the_iroh_relay_without_tls_too(relay):
    """Iroh trusts the usual authorities alone: realtime was dead on these relays."""
    with socket.create_connection((relay.ip, 80), timeout=10) as connection:
        exchange_words(connection, relay.domain)
    assert ask_port_80(relay, "/ping")[0] == 200
    assert ask_port_80(relay, "/generate_204")[0] == 204
    assert ask_port_80(relay, "/new")[0] == 301


@pytest.mark.usefixtures("iroh")
def test_answer_of_the_iroh_relay_binds_no_browser_to_https(relay):
    """Any page could pin all names below the operator's domain to HTTPS for two years."""
    url = f"https://{relay.domain}/generate_204"
    with urllib.request.urlopen(url, timeout=10, context=tls_context()) as answer:
        assert answer.headers["Strict-Transport-Security"] is None
    assert ask_port_80(relay, "/generate_204")[1]["Strict-Transport-Security"] is None


def test_relay_with_a_trusted_certificate_serves_the_check_of_the_network_on_port_80(
    domain_box, source
):
    """Iroh asks there and took the redirect to HTTPS for a captive portal."""
    try:
        assert failed(apply(domain_box, PART, **own_iroh(source))) == set()
        challenge = {"X-Tailscale-Challenge": "a1"}
        status, headers = ask_port_80(domain_box, "/generate_204", **challenge)
        assert (status, headers["X-Tailscale-Response"]) == (204, "response a1")
        for path in ("/relay", "/ping"):
            status, headers = ask_port_80(domain_box, path)
            assert (status, headers["Location"]) == (301, f"https://{domain_box.domain}{path}")
        account = new_account(domain_box)
        assert server_entry(domain_box, account, "irohrelay") == f"https://{domain_box.domain}"
    finally:
        assert failed(apply(domain_box, "chatmail")) == set()


@pytest.mark.parametrize("program", WRONG)
def test_program_that_is_no_iroh_relay_fails_the_run(relay, source, program):
    """A unit that had only forked counted as started."""
    began = relay.run("date +%s.%N").stdout.strip()
    report = apply(relay, PART, **own_iroh(source, program))
    (failure,) = [state for state in report.values() if state["result"] is False]
    assert failure["__id__"] == "iroh relay service"
    assert "journalctl -xeu chatmail-iroh.service" in failure["comment"]
    relay.run("journalctl --sync")
    journal = relay.run(f"journalctl -u chatmail-iroh --no-pager --since=@{began}").stdout
    assert WRONG[program][1] in journal


def test_program_that_fails_again_and_again_is_stopped_with_its_removal(relay, source):
    """The unit went on starting a program that was no longer there, twice a second."""
    apply(relay, PART, **own_iroh(source, "silent"))
    assert failed(apply(relay, PART, iroh_relay="")) == set()
    state = relay.run("systemctl is-active chatmail-iroh", check=False).stdout
    assert state in ("inactive\n", "failed\n")
    assert not_as_expected(apply(relay, PART, iroh_relay="")) == {}


def test_iroh_relay_may_take_a_while_to_listen(relay, source):
    assert failed(apply(relay, PART, **own_iroh(source, "slow"))) == set()
    assert ask(relay, "/ping") == (200, b"slow")
