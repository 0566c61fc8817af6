"""Measures CPU time and memory of the filter for each message. The limits are CPU time."""

import os
import time
from pathlib import Path

import pytest
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import canonical, signing, verifying
from chatmaild.filter import rules
from support import messages, running_filter
from support.messages import RECIPIENT, SENDER, STRANGER, encrypted_body, fields, random_body
from support.milter_client import MilterClient

MB = 1 << 20
SIZES = {"10 KB": 10_000, "30 MB": 30 * 1000 * 1000}


@pytest.fixture(scope="module")
def bodies():
    return {name: random_body(size) for name, size in SIZES.items()}


def cpu(call, times: int) -> float:
    """Return the CPU seconds that one call takes, the least of three rounds."""
    rounds = []
    for _ in range(3):
        started = time.process_time()
        for _ in range(times):
            call()
        rounds.append((time.process_time() - started) / times)
    return min(rounds)


def show(what: str, seconds: float) -> None:
    print(f"{what:<58} {seconds * 1000:9.3f} ms CPU")


# Three times what a slow machine takes: the figures are printed, and the limit finds what is wrong.
@pytest.mark.parametrize(("size", "times", "limit"), [("10 KB", 100, 0.002), ("30 MB", 1, 0.7)])
def test_checks_stay_within_their_cpu_time(bodies, size, times, limit):
    body = bytearray(bodies[size])
    sent = cpu(lambda: rules.check_submission(SENDER, fields(), body), times)
    show(f"checks of a message sent, {size}", sent)
    taken = cpu(lambda: rules.check_incoming("", [], fields(), body, lambda: False), times)
    show(f"checks of a message taken in, {size}", taken)
    assert max(sent, taken) < limit


HOSTILE = {
    "base64": None,
    "lines of white space": b" \t \r\n" * 6_000_000,
    "two spaces after each letter": b"a  " * 10_000_000 + b"\r\n",
    "runs of spaces of all lengths": b"".join(b"x" + b" " * n for n in range(7700)) + b"\r\n",
    "empty lines": b"\r\n" * 15_000_000,
    "one line of spaces": b" " * 30_000_000 + b"\r\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_body_hash_of_30_mb_stays_within_its_cpu_time(bodies, kind):
    body = bytearray(HOSTILE[kind] or bodies["30 MB"])
    for form in ("relaxed", "simple"):
        seconds = cpu(lambda form=form: canonical.body_hash(body, form == "relaxed"), 1)
        show(f"DKIM body hash of 30 MB, {form}, {kind}", seconds)
        # What nobody writes may cost more, but no more than a message's transfer does.
        assert seconds < (0.3 if HOSTILE[kind] is None else 1.0)


HOSTILE_MESSAGES = {
    "a million parts": b"--=_edge\r\n\r\n" * 2_000_000,
    "lines like boundaries": b"\r\n--=_edg" * 3_000_000,
    "one-byte chunks": encrypted_body(messages.armor(b"\xd2" + b"\xe0e" * 11_000_000 + b"\0")),
    "small packets": encrypted_body(messages.armor(b"\xc1\x00" * 11_000_000)),
    "quoted-printable": encrypted_body(b"=41" * 10_000_000).replace(
        b"Content-Disposition: inline", b"Content-Transfer-Encoding: quoted-printable\r\nX: y"
    ),
    "line ends in the armor": encrypted_body(
        b"-----BEGIN PGP MESSAGE-----\r\n" + b"\r\n" * 14_000_000 + b"-----END PGP MESSAGE-----"
    ),
    "a boundary of dashes": b"-" * 30_000_000,
}


@pytest.mark.parametrize("kind", HOSTILE_MESSAGES)
def test_checks_of_hostile_messages_stay_within_bounds(kind):
    body = bytearray(HOSTILE_MESSAGES[kind])

    def check():
        with pytest.raises(Refusal, match="unencrypted"):
            rules.check_incoming("", [], fields(), body, lambda: False)

    seconds = cpu(check, 1)
    show(f"checks of 30 MB of {kind}", seconds)
    assert seconds < 1


def test_signatures_stay_within_their_cpu_time(tmp_path, bodies):
    kinds = {"rsa": "rsa-sha256", "ed": "ed25519-sha256"}
    records = {name: running_filter.write_key(tmp_path, name, kind) for name, kind in kinds.items()}
    running_filter.write_signing(tmp_path, kinds)
    keys = signing.load_keys(tmp_path)
    body = bodies["10 KB"]
    for key in keys:
        seconds = cpu(
            lambda key=key: signing.signature_fields(fields(), body, "chat.example.org", [key]), 100
        )
        show(f"sign 10 KB, {key.algorithm}", seconds)
        assert seconds < 0.005
        [value] = signing.signature_fields(fields(), body, "chat.example.org", [key])
        header = [(b"DKIM-Signature", value), *fields()]
        record = records[key.selector].encode()
        seconds = cpu(
            lambda header=header, record=record: verifying.check_signatures(
                header, body, "chat.example.org", lambda *_: [record]
            ),
            100,
        )
        show(f"verify 10 KB, {key.algorithm}", seconds)
        assert seconds < 0.005


def memory(pid: int, key: str, file: str = "smaps_rollup") -> int:
    """Return kilobytes of a process."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key + ":")).split()[1])


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_running_filter_stays_within_time_and_memory(tmp_path, bodies):
    filter_ = running_filter.Filter(tmp_path, max_user_send_burst_size=10_000)
    filter_.add_mailbox(RECIPIENT)
    filter_.start()
    try:
        pids = [filter_.process.pid, *filter_.children()]
        idle = sum(memory(pid, "Pss") for pid in pids)
        print(f"idle: {idle / 1024:.1f} MB (PSS) in {len(pids)} processes")
        _, submission, incoming, *_ = pids
        for size, times in (("10 KB", 500), ("30 MB", 3)):
            sent = _stream(filter_, "submission", submission, size, times, fields(), bodies[size])
            _stream(filter_, "incoming", incoming, size, times, sent.fields, bodies[size])
        for role, pid in (("submission", submission), ("incoming", incoming)):
            peak, now = memory(pid, "VmHWM", "status"), memory(pid, "Pss")
            print(f"{role}: peak {peak / 1024:.0f} MB (RSS), then {now / 1024:.0f} MB (PSS)")
            assert peak / 1024 * MB < 5 * SIZES["30 MB"]
    finally:
        assert filter_.stop() == 0


def _stream(filter_, role: str, pid: int, size: str, times: int, header, body: bytes):
    """Send a message many times; print what it cost and return the last outcome."""
    recipient = STRANGER if role == "submission" else RECIPIENT
    before, started = cpu_of(pid), time.monotonic()
    with MilterClient(filter_.sockets / role) as client:
        for _ in range(times):
            outcome = client.message(SENDER, [recipient], header, body)
            assert outcome.reply == ""
    show(f"the whole {role} milter, {size}", (cpu_of(pid) - before) / times)
    print(f"{'':<24} {times / (time.monotonic() - started):.1f} messages a second")
    return outcome
