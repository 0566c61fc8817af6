"""The iroh relay, which connects clients in realtime (contract, section 13)."""

import contextlib
import hashlib
import http.client
import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from relay.client import new_account, tls_context
from relay.downloads import download_server
from support.converging import apply, changed, failed, not_as_expected
from support.devices import server_entry

PROGRAM = "/usr/local/bin/iroh-relay"
# Only the states that depend on these settings, because that is quicker.
PART = "chatmail.nginx,chatmail.realtime"
# The only states that fail if the program cannot be downloaded.
IROH_STATES = {"chatmail iroh relay program", "chatmail iroh relay service"}


SILENT = "iroh-relay does not listen on 127.0.0.1:3340; expected is version 0.35 for this machine"
# Programs that are no iroh relay, and the line in the journal about each.
WRONG = {
    "ends": (b"#!/bin/sh\necho wrong option >&2; exit 2\n", SILENT),
    "silent": (b"#!/bin/sh\nexec sleep infinity\n", SILENT),
    "foreign": (b"\x7fELF of another architecture", "Exec format error"),
}


def stand_in(version):
    """Return the bytes of a stand-in with this version, or of a program that is no iroh relay."""
    if version in WRONG:
        return WRONG[version][0]
    text = Path(__file__).with_name("iroh_stand_in.py").read_text()
    return text.replace('VERSION = "one"', f'VERSION = "{version}"').encode()


@pytest.fixture(scope="module")
def account(relay):
    return new_account(relay)


@pytest.fixture(scope="module")
def source(relay):
    """The URL of a server beside the relay with `/<version>.tar.gz`."""
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
    """Return the pid of the iroh relay, "0" if it does not run."""
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
    # The lab's relay has a self-signed certificate, which iroh does not accept.
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
    # The fixture left these out of the first run.
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
    # No process listens on port 1 of that host.
    nowhere = own_iroh(f"{source.rpartition(':')[0]}:1")
    report = apply(relay, "chatmail", **nowhere)
    assert failed(report) == IROH_STATES
    assert relay.run("systemctl is-active coturn postfix dovecot nginx").stdout == "active\n" * 4
    assert ask(relay, "/ping")[0] == 502
    assert new_account(relay)


# Requests without TLS, for clients that cannot use it.


def ask_port_80(relay, path, **headers):
    """Return (status, headers) of a request to port 80. Redirects are not followed."""
    connection = http.client.HTTPConnection(relay.ip, 80, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": relay.domain, **headers})
        answer = connection.getresponse()
        return answer.status, answer.headers


@pytest.mark.usefixtures("iroh")
def test_self_signed_relay_serves_the_iroh_relay_without_tls_too(relay):
    """Iroh trusts only the usual authorities. Once, realtime did not work on these relays."""
    with socket.create_connection((relay.ip, 80), timeout=10) as connection:
        exchange_words(connection, relay.domain)
    assert ask_port_80(relay, "/ping")[0] == 200
    assert ask_port_80(relay, "/generate_204")[0] == 204
    assert ask_port_80(relay, "/new")[0] == 301


@pytest.mark.usefixtures("iroh")
def test_answer_of_the_iroh_relay_binds_no_browser_to_https(relay):
    """Otherwise the iroh relay could bind browsers to HTTPS for all names below the domain."""
    url = f"https://{relay.domain}/generate_204"
    with urllib.request.urlopen(url, timeout=10, context=tls_context()) as answer:
        assert answer.headers["Strict-Transport-Security"] is None
    assert ask_port_80(relay, "/generate_204")[1]["Strict-Transport-Security"] is None


def test_relay_with_a_trusted_certificate_serves_the_check_of_the_network_on_port_80(
    domain_box, source
):
    """Iroh asks there. Once, it took the redirect to HTTPS for a captive portal."""
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
    """Once, the unit counted as started as soon as its process existed."""
    began = relay.run("date +%s.%N").stdout.strip()
    report = apply(relay, PART, **own_iroh(source, program))
    (failure,) = [state for state in report.values() if state["result"] is False]
    assert failure["__id__"] == "chatmail iroh relay service"
    assert "journalctl -xeu chatmail-iroh.service" in failure["comment"]
    relay.run("journalctl --sync")
    journal = relay.run(f"journalctl -u chatmail-iroh --no-pager --since=@{began}").stdout
    assert WRONG[program][1] in journal


def test_program_that_fails_again_and_again_is_stopped_with_its_removal(relay, source):
    """Once, the unit tried to start the removed program twice a second."""
    apply(relay, PART, **own_iroh(source, "silent"))
    assert failed(apply(relay, PART, iroh_relay="")) == set()
    state = relay.run("systemctl is-active chatmail-iroh", check=False).stdout
    assert state in ("inactive\n", "failed\n")
    assert not_as_expected(apply(relay, PART, iroh_relay="")) == {}


def test_iroh_relay_may_take_a_while_to_listen(relay, source):
    assert failed(apply(relay, PART, **own_iroh(source, "slow"))) == set()
    assert ask(relay, "/ping") == (200, b"slow")
