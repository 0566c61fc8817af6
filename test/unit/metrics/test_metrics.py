"""What the services count, what the endpoint makes of it, and the dashboard that shows it."""

import ast
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chatmaild.metrics import counters, endpoint
from chatmaild.metrics.endpoint import Parts
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly
from prometheus_client.parser import text_string_to_metric_families
from support import messages
from support.milter_client import MilterClient, Rejected
from support.running_filter import Filter

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "chatmail/program/files/chatmaild"
DOCS = ROOT / "docs/metrics.md"
DASHBOARD = ROOT / "docs/grafana-dashboard.json"

REAL_COUNT = counters.count  # the fixture of all tests here puts another in its place

# As 2.3.19 and 2.4.1 send it after a login, a failed one, and a client that idled.
FROM_DOVECOT = """\
# HELP process_start_time_seconds Timestamp of service start
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1795561661
# HELP dovecot_build Dovecot build information
# TYPE dovecot_build info
dovecot_build_info{version="2.3.19.1",revision="9b53102964"} 1
# HELP dovecot_auth_request Total number of all events of this kind
# TYPE dovecot_auth_request counter
dovecot_auth_request_total{success="yes"} 2
dovecot_auth_request_count 3
# HELP dovecot_auth_request_duration_seconds Total duration of all events of this kind
# TYPE dovecot_auth_request_duration_seconds counter
dovecot_auth_request_duration_seconds_total{success="yes"} 0.040022
dovecot_auth_request_duration_seconds_sum 0.041483
# HELP dovecot_imap_hibernated Total number of all events of this kind
# TYPE dovecot_imap_hibernated counter
dovecot_imap_hibernated_total 1
# HELP dovecot_imap_command_duration Histogram
# TYPE dovecot_imap_command_duration histogram
dovecot_imap_command_duration_bucket{le="0.000100"} 2
dovecot_imap_command_duration_bucket{le="+Inf"} 5
dovecot_imap_command_duration_sum 0.008091
dovecot_imap_command_duration_count 5
# EOF
"""
REPORT = """\
# HELP chatmail_accounts Addresses.
# TYPE chatmail_accounts gauge
chatmail_accounts{kind="all"} 7
"""


def python(directory, program):
    """Run a program as a service's process that counts in `directory`; returns what it printed."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    if directory:
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def counting(process, *calls):
    """Return a program that counts: each call is the arguments of counters.count."""
    lines = ["from chatmaild.metrics import counters", f"counters.start({process!r})"]
    return "\n".join([*lines, *(f"counters.count(*{call!r})" for call in calls)])


@pytest.fixture
def relay(tmp_path):
    """The three places where the endpoint looks, empty; as a Parts and its directories."""
    counted, retention = tmp_path / "counted", tmp_path / "retention"
    for service in ("accounts", "filter", "metadata", "transport"):
        (counted / service).mkdir(parents=True)
    retention.mkdir()
    return Parts(counted, retention, tmp_path / "dovecot"), counted, retention, tmp_path / "dovecot"


def collected(parts):
    """Return {series: number} of all that the endpoint tells, in Prometheus's notation."""
    registry = CollectorRegistry()
    registry.register(parts)
    text = generate_latest(registry).decode()
    # Both formats that a Prometheus may ask for are well-formed.
    list(strictly(openmetrics.generate_latest(registry).decode()))
    return {
        sample.name + "".join(f"|{key}={value}" for key, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Dovecot:
    """Answers on a Unix socket, after `delay` seconds between two pieces."""

    def __init__(self, path, pieces, delay=0.0):
        self.pieces, self.delay = pieces, delay
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            connection, _ = self.socket.accept()
            with connection:
                connection.recv(1000)
                try:
                    for piece in self.pieces:
                        connection.sendall(piece)
                        time.sleep(self.delay)
                except OSError:
                    pass


def dovecot_answer(body=FROM_DOVECOT, status="200 OK"):
    return f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n{body}".encode()


# Counting


def test_service_that_is_not_told_to_count_loads_nothing_for_it():
    program = counting("metadata", ["delivered_mail"])
    program += "\nimport sys; print([name for name in sys.modules if 'prometheus' in name])"
    assert python(None, program) == "[]\n"


def test_counters_go_on_after_a_restart_in_the_same_file(relay):
    parts, counted, *_ = relay
    for _ in range(3):
        calls = [["chatmail_pushes_total", "sent"], ["delivered_mail"], ["delivered_mail"]]
        assert python(counted / "metadata", counting("metadata", *calls)) == ""
    assert [path.name for path in (counted / "metadata").iterdir()] == ["counter_metadata.db"]
    found = collected(parts)
    assert found["delivered_mail"] == 6
    assert found["chatmail_pushes_total|result=sent"] == 3
    # What has not happened yet is there: else its first time would be missed.
    assert found["chatmail_pushes_total|result=gone"] == 0


def test_what_nobody_counts_is_not_there(relay):
    parts, counted, *_ = relay
    python(counted / "metadata", counting("metadata"))
    found = collected(parts)
    assert "delivered_mail" in found
    assert not [name for name in found if "accounts" in name and "metrics_up" not in name]
    assert found["chatmail_metrics_up|part=metadata"] == 1
    assert found["chatmail_metrics_up|part=accounts"] == 0


def test_processes_of_one_service_are_added_up(relay):
    parts, counted, *_ = relay
    python(counted / "filter", counting("filter-submission", ["dkim_signed"], ["dkim_signed"]))
    python(counted / "filter", counting("filter-sign", ["dkim_signed"]))
    assert collected(parts)["dkim_signed"] == 3


def test_threads_lose_no_count(relay):
    parts, counted, *_ = relay
    program = counting("filter-incoming")
    program += """
from concurrent.futures import ThreadPoolExecutor
def count(_):
    for _ in range(1000):
        counters.count("chatmail_dkim_verified_total")
with ThreadPoolExecutor(8) as pool:
    list(pool.map(count, range(8)))
"""
    python(counted / "filter", program)
    assert collected(parts)["chatmail_dkim_verified_total"] == 8000


def test_endpoint_may_read_what_a_service_with_a_strict_umask_writes(relay):
    _, counted, *_ = relay
    (counted / "metadata").chmod(0o700)
    python(counted / "metadata", "import os; os.umask(0o077)\n" + counting("metadata"))
    assert (counted / "metadata").stat().st_mode & 0o777 == 0o755
    file = counted / "metadata/counter_metadata.db"
    assert file.stat().st_mode & 0o777 == 0o644
    # All of it is there already: a page that could not be had later would be a SIGBUS.
    assert file.stat().st_blocks * 512 >= counters.FILE_SIZE


@pytest.mark.parametrize("content", [b"\xff" * 5000, b"\x60\0\0\0\0\0\0\0\x10\0\0\0notjson" * 9])
def test_service_with_a_broken_file_works_uncounted_and_counts_after_a_restart(relay, content):
    parts, counted, *_ = relay
    file = counted / "metadata/counter_metadata.db"
    file.write_bytes(content)
    assert collected(parts)["chatmail_metrics_up|part=metadata"] == 0
    program = counting("metadata", ["delivered_mail"])
    said = python(counted / "metadata", program + "\nprint('works')")
    assert said.startswith("works\n")
    assert said == "works\n" or "nothing is counted" in said
    python(counted / "metadata", program)
    assert collected(parts)["delivered_mail"] >= 1


def test_service_without_its_directory_works_uncounted(tmp_path):
    said = python(
        tmp_path / "nowhere", counting("metadata", ["delivered_mail"]) + "\nprint('works')"
    )
    assert said.startswith("works\n")
    assert "nothing is counted" in said


def test_service_without_the_library_works_uncounted(relay):
    _, counted, *_ = relay
    program = counting("metadata", ["delivered_mail"]) + "\nprint('works')"
    said = python(
        counted / "metadata", f"import sys; sys.modules['prometheus_client'] = None\n{program}"
    )
    assert "works\n" in said
    assert "python3-prometheus-client is not installed" in said


def test_full_memory_leaves_the_service_alive(relay, tmp_path):
    """Mapping a sparse file would kill it at the first count."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        said = python(small, counting("metadata", ["delivered_mail"]) + "\nprint('works')")
        assert "works\n" in said
        assert "No space left" in said
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_unlisted_name_or_label_is_logged_and_raises_nothing(relay):
    _, counted, *_ = relay
    calls = [["chatmail_pushes_total", "alice@example.org"], ["no_such_counter"]]
    said = python(counted / "metadata", counting("metadata", *calls) + "\nprint('works')")
    assert "works\n" in said
    assert said.count("not counted: ") == 2
    assert "alice" not in said


def test_count_of_a_service_that_does_not_count_costs_next_to_nothing():
    started = time.perf_counter()
    for _ in range(100_000):
        REAL_COUNT("chatmail_refused_total", "incoming", "unencrypted")
    assert time.perf_counter() - started < 1  # 10 µs each, where 0.1 µs are usual


def calls_of(name):
    """Return (file, call) of each call of a function in the package, by its syntax."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in name:
                yield path.name, node


def test_every_reason_of_a_refusal_is_listed():
    from chatmaild.dkim import verifying

    found = {
        node.args[0].value
        for _, node in calls_of({"Refusal", "rules.Refusal"})
        if isinstance(node.args[0], ast.Constant)
    }
    starred = {name for name in vars(verifying) if name.startswith("NO_")}
    found |= {getattr(verifying, name)[0] for name in starred}
    assert len(found) > 10
    assert found == {reason for reasons in counters.REASONS.values() for reason in reasons}


def test_every_counter_is_counted_somewhere_and_no_other():
    names = {
        node.args[0].value
        for _, node in calls_of({"counters.count"})
        if isinstance(node.args[0], ast.Constant)
    }
    made = {"created_ci_accounts", "created_nonci_accounts"}
    assert names | made == {counter.name for counter in counters.COUNTERS}


def test_filter_counts_what_its_roles_do(tmp_path, relay, monkeypatch):
    parts, counted, *_ = relay
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(counted / "filter"))
    home = tmp_path / "f"
    home.mkdir()
    running = Filter(home)
    sender, recipient = "alice0000@chat.example.org", "bob@chat.example.org"
    running.add_mailbox(recipient)
    for _ in range(2):
        running.start()
        try:
            with MilterClient(running.sockets / "submission") as client:
                header, body = messages.fields(), messages.encrypted_body()
                assert client.message(sender, [recipient], header, body).reply == ""
                client.message(sender, [recipient], messages.fields(), b"cleartext\r\n")
            with (
                MilterClient(running.sockets / "incoming") as client,
                pytest.raises(Rejected),
            ):
                client.message("x@y.z", ["nobody000@chat.example.org"], header, body)
            with MilterClient(running.sockets / "sign") as client:
                client.message("", [recipient], messages.fields(), b"a bounce\r\n")
        finally:
            running.stop()
    found = collected(parts)
    assert found["chatmail_passed_total|direction=outgoing|kind=encrypted"] == 2
    assert found["chatmail_refused_total|direction=outgoing|reason=unencrypted"] == 2
    assert found["filtered_outgoing_mail_count"] == 4
    assert found["outgoing_encrypted_mail_count"] == 2
    assert found["outgoing_unencrypted_mail_count"] == 2
    assert found["rejected_unencrypted_mail_count"] == 2
    assert found["filtermail_outbound_drop_total|reason=unencrypted"] == 2
    assert found["chatmail_refused_total|direction=incoming|reason=no such address"] == 2
    assert found["dkim_signed"] == 4
    assert len(list((counted / "filter").iterdir())) == 4


# The endpoint


def test_dovecots_metrics_keep_their_names_and_nothing_malformed(relay):
    parts, _, _, path = relay
    Dovecot(path, [dovecot_answer()])
    found = {name: number for name, number in collected(parts).items() if "dovecot_" in name}
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
    python(counted / "metadata", counting("metadata", ["delivered_mail"]))
    Dovecot(path, [answer])
    found = collected(parts)
    assert found["chatmail_metrics_up|part=dovecot"] == 0
    assert found["delivered_mail"] == 1


def test_dead_dovecot_is_left_out_and_told_of_once(relay, caplog):
    parts, _, retention, _ = relay
    (retention / "report.prom").write_text(REPORT)
    for _ in range(3):
        found = collected(parts)
    assert found["chatmail_metrics_up|part=dovecot"] == 0
    assert found["chatmail_accounts|kind=all"] == 7
    assert caplog.text.count("no metrics of dovecot") == 1


@pytest.mark.parametrize("pieces", [[b""], [b"x"] * 1000])
def test_dovecot_that_hangs_or_drips_delays_the_answer_two_seconds(relay, monkeypatch, pieces):
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
    assert "chatmail_metrics_up|part=retention-report" not in collected(parts)
    (retention / "report.prom").write_text(REPORT)
    (retention / "expire.prom").write_bytes(b"chatmail_expire_runs_total{\xff\n")
    found = collected(parts)
    assert found["chatmail_metrics_up|part=retention-report"] == 1
    assert found["chatmail_metrics_up|part=retention-expire"] == 0
    assert found["chatmail_accounts|kind=all"] == 7


def test_what_no_table_lists_does_not_get_out_of_a_file(relay):
    """A service that was taken over, or one of another version, may write anything there."""
    parts, counted, *_ = relay
    program = """
from prometheus_client import Counter, values
values.ValueClass = values.MultiProcessValue(lambda: "metadata")
for label in ("alice@example.org", "sent"):
    Counter("chatmail_pushes_total", "x", ["result"], registry=None).labels(label).inc()
Counter("other", "x", ["address"], registry=None).labels("bob@example.org").inc()
"""
    python(counted / "metadata", program)
    found = collected(parts)
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


def test_client_that_says_nothing_is_let_go_silently(monkeypatch, capfd):
    monkeypatch.setattr(endpoint._Handler, "timeout", 0.2)
    with (
        endpoint.server("127.0.0.1:0", CollectorRegistry()) as listening,
        socket.create_connection(listening.server_address, timeout=5) as silent,
    ):
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            assert silent.recv(100) == b""
        finally:
            listening.shutdown()
    assert "127.0.0.1" not in "".join(capfd.readouterr())


# Documentation and dashboard


def documented():
    """Return {name: labels} of the table in the documentation."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", DOCS.read_text(), re.M)
    return {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def test_documentation_lists_what_the_services_count():
    known = {each.name: each.labels for each in (*counters.COUNTERS, *counters.OLD_NAMES)}
    table = documented()
    assert {name: table.get(name) for name in known} == known


def test_documentation_lists_dovecots_metrics_of_both_versions():
    table = {name for name in documented() if name.startswith("dovecot_")}
    for version in ("2.3", "2.4"):
        path = ROOT / f"chatmail/dovecot/files/dovecot-{version}.conf.jinja"
        blocks = re.findall(r"^metric (\w+) \{\n(.*?)^\}", path.read_text(), re.M | re.S)
        names = {
            f"dovecot_{name}" if "exponential" in block else f"dovecot_{name}_total"
            for name, block in blocks
        }
        assert names | {"dovecot_build_info"} == table


def dashboard_names():
    """Return the metrics that the dashboard's expressions name."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(expressions) > 30
    return {name for each in expressions for name in re.findall(r"(\w+)\{", each)}


def test_dashboard_shows_documented_metrics():
    names = {name.removesuffix("_bucket") for name in dashboard_names()}
    assert names <= documented().keys()
    # All but the old names that say again what another does.
    left_out = documented().keys() - names
    again = {each.name for each in counters.OLD_NAMES}
    assert left_out <= again | {"dovecot_build_info", "dovecot_imap_unhibernated_total"}


def test_dashboard_is_one_that_grafana_imports():
    dashboard = json.loads(DASHBOARD.read_text())
    assert {"uid", "title", "schemaVersion", "templating", "time", "panels"} <= dashboard.keys()
    assert dashboard["schemaVersion"] >= 36
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & covered, panel["title"]
        covered |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert 'instance=~"$instance"' in target["expr"]
