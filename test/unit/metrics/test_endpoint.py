"""The answers of the endpoint, also when one of its sources does not answer."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from chatmaild.metrics import endpoint
from prometheus_client import CollectorRegistry, generate_latest
from support.metrics import PACKAGE, REPORT, Dovecot, collect, counting, dovecot_answer, run_python


def test_dovecots_metrics_keep_their_names_and_are_well_formed(relay):
    parts, _, _, path = relay
    Dovecot(path, [dovecot_answer()])
    found = {name: number for name, number in collect(parts).items() if "dovecot_" in name}
    assert found == {
        "dovecot_build_info|revision=9b53102964|version=2.3.19.1": 1,
        "dovecot_auth_request_total|success=yes": 2,
        "dovecot_auth_request_duration_seconds_total|success=yes": 0.040022,
        "dovecot_imap_hibernated_total": 1,
        "dovecot_imap_command_duration_bucket|le=0.000100": 2,
        "dovecot_imap_command_duration_bucket|le=+Inf": 5,
        "dovecot_imap_command_duration_sum": 0.008091,
        "dovecot_imap_command_duration_count": 5,
    }


@pytest.mark.parametrize(
    "answer",
    [b"", b"nonsense", dovecot_answer(status="503 no"), dovecot_answer("dovecot_x{ 1\n")],
)
def test_dovecot_that_answers_badly_is_left_out(relay, answer):
    parts, counted, _, path = relay
    run_python(counted / "accounts", counting("accounts", ["delivered_mail"]))
    Dovecot(path, [answer])
    found = collect(parts)
    assert found["chatmail_metrics_up|part=dovecot"] == 0
    assert found["delivered_mail"] == 1


def test_stopped_dovecot_is_left_out_and_logged_once(relay, caplog):
    parts, _, retention, _ = relay
    (retention / "report.prom").write_text(REPORT)
    for _ in range(3):
        found = collect(parts)
    assert found["chatmail_metrics_up|part=dovecot"] == 0
    assert found["chatmail_accounts|kind=all"] == 7
    assert caplog.text.count("no metrics of dovecot") == 1


@pytest.mark.parametrize("pieces", [[b""], [b"x"] * 1000])
def test_dovecot_that_hangs_or_is_slow_delays_the_answer_by_two_seconds(relay, monkeypatch, pieces):
    parts, _, _, path = relay
    monkeypatch.setattr(endpoint, "DOVECOT_SECONDS", 0.5)
    Dovecot(path, pieces, delay=0.1 if len(pieces) > 1 else 10)
    started = time.monotonic()
    registry = CollectorRegistry()
    registry.register(parts)
    assert b'chatmail_metrics_up{part="dovecot"} 0.0' in generate_latest(registry)
    assert time.monotonic() - started < 2


def test_broken_file_of_retention_is_left_out(relay):
    parts, _, retention, _ = relay
    assert "chatmail_metrics_up|part=retention-report" not in collect(parts)
    (retention / "report.prom").write_text(REPORT)
    (retention / "expire.prom").write_bytes(b"chatmail_expire_runs_total{\xff\n")
    found = collect(parts)
    assert found["chatmail_metrics_up|part=retention-report"] == 1
    assert found["chatmail_metrics_up|part=retention-expire"] == 0
    assert found["chatmail_accounts|kind=all"] == 7


def test_metrics_and_labels_that_no_table_lists_are_left_out(relay):
    """A service of another version, or one that an attacker controls, may write any text there."""
    parts, counted, *_ = relay
    program = """
from prometheus_client import Counter, values
values.ValueClass = values.MultiProcessValue(lambda: "accounts")
for label in ("alice@example.org", "sent"):
    Counter("chatmail_pushes_total", "x", ["result"], registry=None).labels(label).inc()
Counter("other", "x", ["address"], registry=None).labels("bob@example.org").inc()
"""
    run_python(counted / "accounts", program)
    found = collect(parts)
    assert found["chatmail_pushes_total|result=sent"] == 1
    assert "@" not in "".join(found)


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_endpoint_answers_at_its_address_until_it_is_stopped(tmp_path, address):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address.strip("[]"), 0))
        port = probe.getsockname()[1]
    settings = tmp_path / "relay.json"
    settings.write_text(json.dumps({"metrics_address": f"{address}:{port}"}))
    program = (
        "import sys; from pathlib import Path\n"
        "from chatmaild.metrics import __main__ as service\n"
        f"service.load_settings = lambda: __import__('json').load(open({str(settings)!r}))\n"
        "sys.exit(service.main())"
    )
    notify = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(notify))
        systemd.settimeout(30)
        environment = {"PYTHONPATH": str(PACKAGE.parent), "NOTIFY_SOCKET": str(notify)}
        process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | environment)
        try:
            assert systemd.recv(100) == b"READY=1"

            def ask(_):
                connection = http.client.HTTPConnection(address.strip("[]"), port, timeout=10)
                connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
                answer = connection.getresponse()
                assert answer.getheader("Content-Type").startswith("text/plain; version=0.0.4")
                return answer.read().decode()

            with ThreadPoolExecutor(10) as pool:
                for text in pool.map(ask, range(20)):
                    assert 'chatmail_metrics_up{part="dovecot"}' in text
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_silent_client_is_disconnected_without_a_log_line(monkeypatch, capfd):
    monkeypatch.setattr(endpoint._Handler, "timeout", 0.2)
    with (
        endpoint.server("127.0.0.1:0", CollectorRegistry()) as listening,
        socket.create_connection(listening.server_address, timeout=5) as silent,
    ):
        threading.Thread(target=listening.serve_forever, args=[0.01], daemon=True).start()
        try:
            assert silent.recv(100) == b""
        finally:
            listening.shutdown()
    assert "127.0.0.1" not in "".join(capfd.readouterr())
