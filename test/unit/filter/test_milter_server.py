"""The milter protocol itself: who gets no answer, what is logged, and what ends with a session."""

import contextlib
import queue
import socket
import struct
import threading
import time

import pytest
from chatmaild.filter import milter_server
from chatmaild.filter.milter_server import CONTINUE
from support.milter_client import ACTIONS, STEPS, MilterClient

VERSION = 6
# What a session that takes long does before its answer.
ANSWERS = queue.Queue()


class Recorded(milter_server.Session):
    """A session that accepts everything, and notes what it got."""

    def __init__(self, got):
        super().__init__()
        self.got = got

    def envfrom(self, sender):
        self.got.append(sender)
        return CONTINUE

    def envrcpt(self, recipient):
        self.got.append(recipient)
        return CONTINUE

    def header(self, name, value):
        if value == b" break":
            raise LookupError("the text of a message")
        self.got.append((name, value))

    def body(self, chunk):
        self.got.append(len(chunk))

    def takes_long(self):
        return b"<long@b.c>" in self.got

    def eom(self):
        self.got.append("eom")
        if self.takes_long():
            ANSWERS.get(timeout=20)()
        return CONTINUE

    def abort(self):
        self.got.append("abort")

    def close(self):
        self.got.append("close")


@pytest.fixture
def server(tmp_path):
    """Return the path of a server, and for each session in their order what it got."""
    sessions, path = [], tmp_path / "s"

    def session():
        sessions.append([])
        return Recorded(sessions[-1])

    listener = milter_server.listen(path)
    threading.Thread(target=milter_server.serve, args=(listener, session), daemon=True).start()
    return path, sessions


@contextlib.contextmanager
def connected(path):
    """Yield a connection that waits for all of an answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        yield client


def packet(command, data=b""):
    return struct.pack(">I", len(data) + 1) + command + data


def offer(version=VERSION, actions=ACTIONS, steps=STEPS):
    return packet(b"O", struct.pack(">III", version, actions, steps))


AGREED = offer(actions=0x59, steps=0x1803C3)


def receive(client, length):
    """Return so many bytes of the answers."""
    received = b""
    while len(received) < length and (data := client.recv(length - len(received))):
        received += data
    return received


def wait_until(condition):
    """Wait until a condition holds; fail after 20 s."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def rest(client):
    """Return what comes until the server closes the connection."""
    received = b""
    while data := client.recv(4096):
        received += data
    return received


def test_session_gets_the_whole_message_and_its_end(server):
    path, sessions = server
    with connected(path) as client:
        client.sendall(
            offer() + packet(b"M", b"<a@b.c>\0") + packet(b"R", b"<d@e.f>\0")
            + packet(b"L", b"To\0 x\n y\0") + packet(b"L", b"Empty\0\0")
            + packet(b"B", b"z" * 65535) + packet(b"B", b"zz") + packet(b"E") + packet(b"A")
            + packet(b"Q")
        )  # fmt: skip
        assert rest(client) == AGREED + 3 * packet(b"c")
    assert sessions == [
        [b"<a@b.c>", b"<d@e.f>", (b"To", b" x\n y"), (b"Empty", b""), 65535, 2, "eom", "abort",
         "close"]
    ]  # fmt: skip


def test_macros_and_further_parameters_are_passed_over(server):
    path, sessions = server
    with connected(path) as client:
        client.sendall(offer() + packet(b"D", b"Mi\0x\0") + packet(b"M", b"<a@b.c>\0SIZE=5\0"))
        client.sendall(packet(b"Q"))
        assert rest(client) == AGREED + packet(b"c")
    assert sessions == [[b"<a@b.c>", "close"]]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (packet(b"M", b"<a@b.c>\0"), "no negotiation at the start"),
        (packet(b"O", b"\0" * 11), "no negotiation at the start"),
        (offer(version=5), "offers version 5, "),
        (offer(actions=ACTIONS & ~0x40), "actions 0x1bf, "),
        (offer(steps=STEPS & ~0x100000), "steps 0xfffff only"),
        (offer() + packet(b"Z"), "the command b'Z'"),
        (offer() + struct.pack(">I", 0), "a packet of 0 bytes"),
        (offer() + struct.pack(">I", (1 << 20) + 1), "a packet of 1048577 bytes"),
    ],
)
def test_client_that_speaks_otherwise_gets_no_answer(server, caplog, sent, said):
    path, sessions = server
    with connected(path) as client:
        client.sendall(sent)
        assert rest(client) in (b"", AGREED)
    assert "a client of the milter: " in caplog.text
    assert said in caplog.text
    assert sessions == [["close"]]


@pytest.mark.parametrize(
    "sent", [b"", b"\0\0", offer()[:9], offer() + packet(b"M", b"<a@b.c>\0")[:8]]
)
def test_client_that_leaves_ends_its_session_without_a_word(server, caplog, sent):
    path, sessions = server
    with connected(path) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        rest(client)
    assert sessions == [["close"]]
    assert caplog.text == ""


def test_session_that_breaks_ends_alone_and_its_text_is_not_logged(server, caplog):
    path, sessions = server
    other = MilterClient(path)
    with connected(path) as client:
        client.sendall(offer() + packet(b"L", b"Subject\0 break\0"))
        rest(client)
    assert "a session broke: LookupError at " in caplog.text
    assert "text of a message" not in caplog.text
    other.mail("a@b.c")
    other.close()
    assert sessions[1] == ["close"]


def test_session_that_takes_long_keeps_no_other_waiting(server):
    path, sessions = server
    with connected(path) as client:
        client.sendall(
            offer() + packet(b"M", b"<long@b.c>\0") + packet(b"E")
            + packet(b"M", b"<next@b.c>\0") + packet(b"A")
        )  # fmt: skip
        assert receive(client, len(AGREED) + 5) == AGREED + packet(b"c")
        with MilterClient(path) as other:
            other.mail("a@b.c")
        assert "eom" not in sessions[1]
        assert b"<next@b.c>" not in sessions[0]
        ANSWERS.put(lambda: None)
        # The answer, and one to what was sent before it.
        assert receive(client, 10) == 2 * packet(b"c")
        # The session is read as before, also for a further message that takes long.
        ANSWERS.put(lambda: None)
        client.sendall(packet(b"M", b"<a@b.c>\0") + packet(b"E") + packet(b"Q"))
        assert rest(client) == 2 * packet(b"c")
    assert sessions[0] == [
        b"<long@b.c>", "eom", b"<next@b.c>", "abort", b"<a@b.c>", "eom", "close"
    ]  # fmt: skip


def test_session_that_takes_long_and_breaks_ends_alone(server, caplog):
    path, sessions = server

    def fail():
        raise LookupError("the text of a message")

    with connected(path) as client:
        client.sendall(offer() + packet(b"M", b"<long@b.c>\0") + packet(b"E"))
        ANSWERS.put(fail)
        assert rest(client) == AGREED + packet(b"c")
    assert "a session broke: LookupError at " in caplog.text
    assert "text of a message" not in caplog.text
    MilterClient(path).close()
    assert sessions[0] == [b"<long@b.c>", "eom", "close"]


def test_client_that_leaves_before_a_long_answer_ends_its_session(server, caplog):
    path, sessions = server
    with connected(path) as client:
        client.sendall(offer() + packet(b"M", b"<long@b.c>\0") + packet(b"E"))
        receive(client, len(AGREED) + 5)
    ANSWERS.put(lambda: None)
    wait_until(lambda: sessions[0][-1] == "close")
    MilterClient(path).close()
    assert caplog.text == ""


def test_without_a_thread_for_a_long_answer_the_session_ends(server, caplog, monkeypatch):
    path, _ = server

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with connected(path) as client:
            client.sendall(offer() + packet(b"M", b"<long@b.c>\0") + packet(b"E"))
            assert rest(client) == AGREED + packet(b"c")
    assert "no room for a session: can't start new thread" in caplog.text
    MilterClient(path).close()


def test_without_a_descriptor_a_session_waits(server, caplog, monkeypatch):
    path, sessions = server
    accept, fails = socket.socket.accept, iter([True, True])

    def fail(self):
        if next(fails, False):
            raise OSError(24, "Too many open files")
        return accept(self)

    with MilterClient(path) as earlier:
        monkeypatch.setattr(socket.socket, "accept", fail)
        with connected(path) as client:
            # Others are answered meanwhile.
            wait_until(lambda: "Too many" in caplog.text)
            earlier.mail("a@b.c")
            client.sendall(offer() + packet(b"Q"))
            assert rest(client) == AGREED
    assert caplog.text.count("no room for a session: [Errno 24] Too many open files") == 2
    assert len(sessions) == 2


def test_changes_are_packets_of_the_protocol(server):
    session = Recorded([])
    session.insert_field(0, b"A", b" b")
    session.change_field(2, b"C", b"")
    session.change_sender(b"<>")
    session.remove_recipient(b"<d@e.f>")
    assert session.take_changes() == [
        b"i\0\0\0\0A\0 b\0", b"m\0\0\0\x02C\0\0", b"e<>\0", b"-<d@e.f>\0"
    ]  # fmt: skip
    assert session.take_changes() == []


def test_reply_doubles_percent_signs():
    assert milter_server.reply("550", "5.7.1", "100% no") == b"y550 5.7.1 100%% no\0"
    assert milter_server.reply("523", None, "no") == b"y523 no\0"
