"""The filter as processes: memory, many sessions, signals, and errors of its own."""

import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chatmaild.filter import milters
from chatmaild.filter.milter_server import CONTINUE
from support import running_filter
from support.messages import RECIPIENT, SENDER, STRANGER, armored, encrypted_body, fields
from support.milter_client import MilterClient, Rejected
from support.milter_session import Held, shared_state
from support.running_filter import verified


def resident(pid: int) -> int:
    """Return the bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_bodies_are_not_held_while_dns_is_asked(own_filter):
    """12 sessions of 30 MB held 931 MB for as long as a name server was silent."""
    size, sessions = 4 * 2**20, 12
    own_filter.settings["max_user_send_burst_size"] = 100
    own_filter.add_mailbox(RECIPIENT)
    (own_filter.home / "relay.json").write_text(json.dumps(own_filter.settings))
    own_filter.start()
    body = encrypted_body(armored(os.urandom(size)))
    with MilterClient(own_filter.sockets / "submission") as client:
        large = client.message(SENDER, [STRANGER], fields(), body)
    records = dict(own_filter.zone)
    own_filter.publish(**dict.fromkeys(records, "WAIT"))
    incoming = own_filter.children()[1]
    before = resident(incoming)

    def receive():
        with MilterClient(own_filter.sockets / "incoming") as client:
            return client.message(SENDER, [RECIPIENT], large.fields, large.body).reply

    with ThreadPoolExecutor(sessions) as pool:
        replies = [pool.submit(receive) for _ in range(sessions)]
        deadline = time.monotonic() + 60
        while len(list(own_filter.home.glob("waiting-*"))) < sessions:
            assert time.monotonic() < deadline, own_filter.logged()
            time.sleep(0.02)
        grown = resident(incoming) - before
        # Meanwhile others are answered.
        with MilterClient(own_filter.sockets / "incoming") as client:
            client.mail(STRANGER)
            with pytest.raises(Rejected, match=r"^550 5\.1\.1"):
                client.recipient("nobody000@chat.example.org")
        own_filter.publish(**records)
        assert {reply.result() for reply in replies} == {""}
    assert grown < sessions * size / 2, f"{grown / 2**20:.0f} MB more"


def test_more_than_so_much_at_once_has_to_wait(monkeypatch):
    monkeypatch.setattr(milters, "MAX_IN_FLIGHT", 1000)
    shared = shared_state()
    one, two = Held(shared), Held(shared)
    one.body(b"x" * 600)
    two.body(b"y" * 600)
    two.body(b"y" * 10)
    assert two.eom().startswith(b"y451 4.3.2 ")
    assert one.eom() == CONTINUE
    assert one.seen == b"x" * 600
    two.body(b"y" * 1000)
    assert (two.eom(), two.seen) == (CONTINUE, b"y" * 1000)
    # What a lost session held is there again.
    one.body(b"x" * 600)
    one.header(b"A", b"b" * 399)
    two.header(b"C", b"")
    assert two.eom().startswith(b"y451 4.3.2 ")
    one.close()
    two.body(b"y" * 1000)
    assert two.eom() == CONTINUE


def test_filter_answers_many_sessions_at_once(filter_, sent):
    def receive(number):
        with MilterClient(filter_.sockets / "incoming") as client:
            return client.message(f"x{number}@y.z", [RECIPIENT], sent.fields, sent.body).reply

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(receive, range(100))) == {""}


def test_filter_replaces_sockets_that_a_killed_one_left(own_filter):
    own_filter.start()
    processes = [own_filter.process.pid, *own_filter.children()]
    descriptors = [os.pidfd_open(pid) for pid in processes]
    for pid in processes:
        os.kill(pid, signal.SIGKILL)
    # The children are not this process's to wait for; they may listen for a moment yet.
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], 10)[0]
        os.close(descriptor)
    own_filter.process.wait(10)
    own_filter.systemd.close()
    for role in ("submission", "incoming", "mxdeliv", "sign"):
        path = own_filter.sockets / role
        assert stat.S_ISSOCK(path.stat().st_mode)
        with pytest.raises(ConnectionRefusedError):
            MilterClient(path)
    own_filter.start()
    for role in ("submission", "incoming", "mxdeliv", "sign"):
        path = own_filter.sockets / role
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        MilterClient(path).close()


@pytest.mark.parametrize("role", [0, 1, 2, 3])
def test_filter_whose_role_is_killed_ends_as_a_whole(own_filter, role):
    """A relay with three of four roles would let mail wait for ever without anybody noticing."""
    own_filter.start()
    children = own_filter.children()
    os.kill(children[role], signal.SIGKILL)
    assert own_filter.process.wait(10) == 1
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_filter_told_to_stop_ends_though_sessions_are_open(own_filter):
    own_filter.start()
    client = MilterClient(own_filter.sockets / "submission")
    client.mail(SENDER)
    assert own_filter.stop() == 0
    with pytest.raises((ConnectionError, TimeoutError)):
        client.recipient(STRANGER)


def test_filter_that_cannot_sign_does_not_start(tmp_path):
    filter_ = running_filter.Filter(tmp_path)
    (filter_.keys / "rsa.pem").unlink()
    ended = subprocess.run(
        [sys.executable, "-m", "chatmaild.filter", "--settings", tmp_path / "relay.json",
         "--keys", filter_.keys, "--sockets", filter_.sockets],
        env=os.environ | {"PYTHONPATH": str(running_filter.SERVICES)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "rsa.pem" in ended.stderr
    assert not list(filter_.sockets.iterdir())


def test_filter_of_an_ip_relay_neither_signs_nor_verifies(tmp_path):
    filter_ = running_filter.Filter(
        tmp_path, form="ip", mail_domain="192.0.2.5", address_domain="[192.0.2.5]",
        dkim_required=False,
    )  # fmt: skip
    user = "alice0000@[192.0.2.5]"
    filter_.add_mailbox(user)
    (filter_.keys / "signing.json").unlink()
    filter_.start()
    try:
        with MilterClient(filter_.sockets / "submission") as client:
            sent = client.message(user, [STRANGER], fields(user), encrypted_body())
        assert sent.reply == ""
        assert b"DKIM-Signature" not in sent.raw
        with MilterClient(filter_.sockets / "incoming") as client:
            header = fields(STRANGER)
            assert client.message(STRANGER, [user], header, encrypted_body()).reply == ""
    finally:
        assert filter_.stop() == 0


def test_filter_signs_with_the_new_key_without_a_restart(own_filter):
    own_filter.start()
    record = running_filter.write_key(own_filter.keys, "next", "rsa-sha256")
    own_filter.zone["next._domainkey.chat.example.org."] = [record]
    running_filter.write_signing(own_filter.keys, {"next": "rsa-sha256"})
    os.utime(own_filter.keys / "signing.json", (1, 1))
    with MilterClient(own_filter.sockets / "submission") as client:
        outcome = client.message(SENDER, [STRANGER], fields(), encrypted_body())
    assert outcome.raw.count(b"DKIM-Signature:") == 1
    assert verified(own_filter, outcome.raw, 0)


def test_filter_with_an_error_of_its_own_defers(own_filter):
    """Whatever breaks here, mail waits and nothing slips through."""
    own_filter.add_mailbox(RECIPIENT)
    settings = own_filter.settings | {"mailboxes_dir": "x\0y"}
    (own_filter.home / "relay.json").write_text(json.dumps(settings))
    own_filter.start()
    with MilterClient(own_filter.sockets / "incoming") as client:
        client.mail(STRANGER)
        with pytest.raises(Rejected, match=r"^451 4\."):
            client.recipient(RECIPIENT)
    assert "ValueError at " in own_filter.logged()
    assert RECIPIENT not in own_filter.logged()


def test_filter_survives_nonsense_on_its_sockets(filter_, sent):
    for junk in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\0", b"\xff" * 64, b"\0\0\0\x01Z"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(filter_.sockets / "incoming"))
            client.sendall(junk)
    with MilterClient(filter_.sockets / "incoming") as client:
        assert client.message("x@y.z", [RECIPIENT], sent.fields, sent.body).reply == ""
