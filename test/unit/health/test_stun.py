"""The TURN client: its bytes, and what it makes of a server's answers."""

import socket
import struct
import threading

import pytest
from chatmaild.health import stun

# RFC 5769 section 2.4: a request with long-term credentials.
REQUEST = bytes.fromhex("""
    00010060 2112a442 78ad3433 c6ad72c0 29da412e
    00060012 e3839ee3 8388e383 aae38383 e382afe3 82b90000
    0015001c 662f2f34 39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341
    0014000b 6578616d 706c652e 6f726700
    00080014 f6702465 6dd64a3e 02b8e071 2e85c9a2 8ca89666
""")
USER, PASSWORD, REALM = "マトリックス", "TheMatrIX", "example.org"
NONCE = b"f//499k954d6OL34oL9FSTvy64sA"
BINDING = 0x0001


def test_request_has_the_bytes_of_the_published_example():
    attributes = [
        (stun.USERNAME, USER.encode()),
        (stun.NONCE, NONCE),
        (stun.REALM, REALM.encode()),
    ]
    key = stun.make_key(USER, REALM, PASSWORD)
    made = stun.make_message(BINDING, bytes.fromhex("78ad3433c6ad72c029da412e"), attributes, key)
    assert made == REQUEST


def test_published_example_is_read_as_it_was_made():
    kind, transaction, attributes = stun.parse_message(REQUEST)
    assert (kind, transaction.hex()) == (BINDING, "78ad3433c6ad72c029da412e")
    assert attributes[stun.USERNAME].decode() == USER
    assert attributes[stun.NONCE] == NONCE
    assert attributes[stun.REALM].decode() == REALM


@pytest.mark.parametrize("broken", [b"", REQUEST[:-1], REQUEST + b"\0", b"\0" * 20, REQUEST[:22]])
def test_what_is_no_stun_message_is_an_error(broken):
    with pytest.raises(ValueError, match="STUN message"):
        stun.parse_message(broken)


class Server:
    """A TURN server that answers each request with the next of its answers, or with none."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)

    def serve(self):
        for answer in self.answers:
            data, client = self.socket.recvfrom(2048)
            if not data:
                return
            self.requests.append(stun.parse_message(data))
            if answer:
                kind, attributes, *other = answer
                transaction = other[0] if other else self.requests[-1][1]
                self.socket.sendto(stun.make_message(kind, transaction, attributes), client)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopping:
            stopping.sendto(b"", ("127.0.0.1", self.port))
        self.thread.join(10)
        self.socket.close()


def error(code):
    value = struct.pack("!HBB", 0, code // 100, code % 100)
    return stun.ALLOCATE | stun.ERROR, [
        (stun.ERROR_CODE, value),
        (stun.REALM, b"example.org"),
        (stun.NONCE, b"nonce"),
    ]


ALLOCATED = stun.ALLOCATE | stun.SUCCESS, [(stun.RELAYED_ADDRESS, bytes(8))]
REFRESHED = stun.REFRESH | stun.SUCCESS, []


def test_allocation_is_given_back():
    with Server(error(401), ALLOCATED, REFRESHED) as server:
        stun.allocate("127.0.0.1", server.port, "user", "password")
    first, second, third = (attributes for _kind, _transaction, attributes in server.requests)
    assert set(first) == {stun.REQUESTED_TRANSPORT}
    assert second[stun.NONCE] == b"nonce"
    assert stun.INTEGRITY in second
    assert third[stun.LIFETIME] == bytes(4)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((error(401), error(401)), "401 with the relay's own credentials"),
        ((error(401), error(486)), "486"),
        ((ALLOCATED,), "without credentials; expected: 401"),
        ((error(300),), "300"),
    ],
)
def test_refusal_names_the_code(answers, said):
    with Server(*answers) as server, pytest.raises(stun.Refused, match=said):
        stun.allocate("127.0.0.1", server.port, "user", "password")


def test_answer_to_another_request_is_passed_over():
    late = (*error(300), bytes(12))
    with Server(late, error(401), late, ALLOCATED, REFRESHED) as server:
        stun.allocate("127.0.0.1", server.port, "user", "password")


def test_lost_datagram_is_sent_again_and_silence_ends(monkeypatch):
    monkeypatch.setattr(stun, "PATIENCE", 0.2)
    with Server(None, error(401), ALLOCATED, None, REFRESHED) as server:
        stun.allocate("127.0.0.1", server.port, "user", "password")
    monkeypatch.setattr(stun, "PATIENCE", 0.01)
    with Server(*[None] * stun.ATTEMPTS) as server, pytest.raises(TimeoutError):
        stun.allocate("127.0.0.1", server.port, "user", "password")
