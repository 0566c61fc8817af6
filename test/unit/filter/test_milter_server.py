"""The milter protocol itself: who gets no answer, what is logged, and what ends with a session."""

import contextlib
import socket
import struct
import threading

import pytest
from chatmaild.filter import milter_server
from chatmaild.filter.milter_server import CONTINUE
from support.milter_client import ACTIONS, STEPS, MilterClient

VERSION = 6


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

    def eom(self):
        self.got.append("eom")
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


def test_without_a_thread_for_a_session_the_client_gets_no_answer(server, caplog, monkeypatch):
    path, _ = server

    def start(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with connected(path) as client:
            assert rest(client) == b""
    assert "no room for a session: can't start new thread" in caplog.text
    MilterClient(path).close()


def test_without_a_descriptor_a_session_waits(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(milter_server, "NO_ROOM_SECONDS", 0)
    ends = [OSError(24, "Too many open files"), KeyboardInterrupt()]

    class Full:
        def accept(self):
            raise ends.pop(0)

    with pytest.raises(KeyboardInterrupt):
        milter_server.serve(Full(), list)
    assert "no room for a session: [Errno 24] Too many open files" in caplog.text


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
