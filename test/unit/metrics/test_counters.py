"""The counters of the services, across processes and restarts."""

import ast
import subprocess
import time

import pytest
from chatmaild.metrics import counters
from support import messages
from support.metrics import PACKAGE, collect, counting, run_python
from support.milter_client import MilterClient, Rejected
from support.running_filter import Filter

REAL_COUNT = counters.count  # The fixture of all tests here replaces the function.


def test_service_without_metrics_does_not_load_the_library():
    program = counting("accounts", ["delivered_mail"])
    program += "\nimport sys; print([name for name in sys.modules if 'prometheus' in name])"
    assert run_python(None, program) == "[]\n"


def test_counters_go_on_after_a_restart_in_the_same_file(relay):
    parts, counted, *_ = relay
    for _ in range(3):
        calls = [["chatmail_pushes_total", "sent"], ["delivered_mail"], ["delivered_mail"]]
        assert run_python(counted / "accounts", counting("accounts", *calls)) == ""
    assert [path.name for path in (counted / "accounts").iterdir()] == ["counter_accounts.db"]
    found = collect(parts)
    assert found["delivered_mail"] == 6
    assert found["chatmail_pushes_total|result=sent"] == 3
    # Events that have not happened have 0. Otherwise Prometheus would miss the first one.
    assert found["chatmail_pushes_total|result=gone"] == 0


def test_counter_of_a_service_that_does_not_run_is_absent(relay):
    parts, counted, *_ = relay
    run_python(counted / "accounts", counting("accounts"))
    found = collect(parts)
    assert "delivered_mail" in found
    assert not [name for name in found if "mxdeliv" in name and "metrics_up" not in name]
    assert found["chatmail_metrics_up|part=accounts"] == 1
    assert found["chatmail_metrics_up|part=transport"] == 0


def test_processes_of_one_service_are_added_up(relay):
    parts, counted, *_ = relay
    run_python(counted / "filter", counting("filter-submission", ["dkim_signed"], ["dkim_signed"]))
    run_python(counted / "filter", counting("filter-sign", ["dkim_signed"]))
    assert collect(parts)["dkim_signed"] == 3


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
    run_python(counted / "filter", program)
    assert collect(parts)["chatmail_dkim_verified_total"] == 8000


def test_endpoint_may_read_what_a_service_with_a_strict_umask_writes(relay):
    _, counted, *_ = relay
    (counted / "accounts").chmod(0o700)
    run_python(counted / "accounts", "import os; os.umask(0o077)\n" + counting("accounts"))
    assert (counted / "accounts").stat().st_mode & 0o777 == 0o755
    file = counted / "accounts/counter_accounts.db"
    assert file.stat().st_mode & 0o777 == 0o644
    # The file has all its pages already. A page that cannot be allocated later means SIGBUS.
    assert file.stat().st_blocks * 512 >= counters.FILE_SIZE


@pytest.mark.parametrize("content", [b"\xff" * 5000, b"\x60\0\0\0\0\0\0\0\x10\0\0\0notjson" * 9])
def test_service_with_a_broken_file_works_uncounted_and_counts_after_a_restart(relay, content):
    parts, counted, *_ = relay
    file = counted / "accounts/counter_accounts.db"
    file.write_bytes(content)
    assert collect(parts)["chatmail_metrics_up|part=accounts"] == 0
    program = counting("accounts", ["delivered_mail"])
    output = run_python(counted / "accounts", program + "\nprint('works')")
    assert output.startswith("works\n")
    assert output == "works\n" or "nothing is counted" in output
    run_python(counted / "accounts", program)
    assert collect(parts)["delivered_mail"] >= 1


def test_service_without_its_directory_works_uncounted(tmp_path):
    output = run_python(
        tmp_path / "nowhere", counting("accounts", ["delivered_mail"]) + "\nprint('works')"
    )
    assert output.startswith("works\n")
    assert "nothing is counted" in output


def test_service_without_the_library_works_uncounted(relay):
    _, counted, *_ = relay
    program = counting("accounts", ["delivered_mail"]) + "\nprint('works')"
    output = run_python(
        counted / "accounts", f"import sys; sys.modules['prometheus_client'] = None\n{program}"
    )
    assert "works\n" in output
    assert "python3-prometheus-client is not installed" in output


def test_full_memory_leaves_the_service_alive(relay, tmp_path):
    """A mapped sparse file would kill the service at the first count."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        output = run_python(small, counting("accounts", ["delivered_mail"]) + "\nprint('works')")
        assert "works\n" in output
        assert "No space left" in output
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_unlisted_name_or_label_is_logged_and_raises_nothing(relay):
    _, counted, *_ = relay
    calls = [["chatmail_pushes_total", "alice@example.org"], ["no_such_counter"]]
    output = run_python(counted / "accounts", counting("accounts", *calls) + "\nprint('works')")
    assert "works\n" in output
    assert output.count("not counted: ") == 2
    assert "alice" not in output


def test_count_in_a_service_without_metrics_is_fast():
    started = time.perf_counter()
    for _ in range(100_000):
        REAL_COUNT("chatmail_refused_total", "incoming", "unencrypted")
    assert time.perf_counter() - started < 1  # The limit is 10 µs each. 0.1 µs are usual.


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
    found = collect(parts)
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
