"""The limits of the milters, to one field and one byte, and what each callback answers."""

import pytest
from chatmaild.common.refusals import Refusal
from chatmaild.filter.milter_server import CONTINUE, TEMPFAIL
from chatmaild.filter.milters import ROLES
from support.milter_client import NO_REPLY_BODY, NO_REPLY_HEADER, MilterClient
from support.milter_session import Held, shared_state

MIB = 1024 * 1024
TOO_LARGE = b"y552 5.3.4 Message header too large\0"


@pytest.fixture
def session():
    return Held(shared_state())


@pytest.mark.parametrize("more", [0, 1])
def test_header_of_a_thousand_fields_is_the_longest(session, more):
    for _ in range(1000 + more):
        session.header(b"X", b" y")
    assert session.eom() == (TOO_LARGE if more else CONTINUE)


@pytest.mark.parametrize("more", [0, 1])
def test_header_of_512_kb_is_the_largest(session, more):
    """Names and values count."""
    for _ in range(8):
        session.header(b"X" * 1024, b"y" * (63 * 1024))
    if more:
        session.header(b"", b"z")
    assert session.eom() == (TOO_LARGE if more else CONTINUE)


def test_header_too_large_is_forgotten_with_its_message(session):
    session.header(b"X", b"y" * 513 * 1024)
    assert session.eom() == TOO_LARGE
    session.header(b"X", b"y")
    assert session.eom() == CONTINUE


@pytest.mark.parametrize(
    ("largest", "room"), [(100, 96 * MIB), (96 * MIB, 96 * MIB), (96 * MIB + 1, 96 * MIB + 1)]
)
def test_sessions_hold_96_mib_at_once_or_one_message(largest, room):
    """The unit's MemoryMax is computed from it."""
    in_flight = shared_state(max_message_size=largest).in_flight
    assert in_flight.take(room)
    assert not in_flight.take(1)
    in_flight.give_back(1)
    assert not in_flight.take(2)
    assert in_flight.take(1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a" * 500, "a" * 500),
        ("a" * 501, "a" * 500),
        ("%" * 501, "%%" * 500),
        (" ~\x1f\x7f\r\n\0é", " ~??????"),
    ],
)
def test_reply_is_printable_and_fits_in_a_line(session, text, told):
    answer = session.refuse(Refusal("unencrypted", "523", None, text))
    assert answer == f"y523 {told}\0".encode()


class Broken(Held):
    """A session with a fault of its own at each step."""

    def __init__(self, shared):
        super().__init__(shared)
        self.broken = True

    def _forget(self):
        if getattr(self, "broken", False):
            raise OSError("fault of the test")
        super()._forget()

    def check_recipient(self, address):
        raise OSError("fault of the test")


CALLBACKS = {
    "envfrom": [b"<a@example.net>"],
    "envrcpt": [b"<b@example.net>"],
    "eom": [],
    "abort": [],
    "close": [],
}


@pytest.mark.parametrize(("name", "arguments"), CALLBACKS.items(), ids=CALLBACKS)
def test_callback_goes_on_and_with_a_fault_of_its_own_defers(name, arguments, counts, caplog):
    """The log has the place of the fault, and no text that may quote the message."""
    assert getattr(Held(shared_state()), name)(*arguments) == CONTINUE
    assert counts == []
    assert getattr(Broken(shared_state()), name)(*arguments) == TEMPFAIL
    assert counts == [("chatmail_filter_failures_total",)]
    assert f"OSError at {__file__}:" in caplog.text
    assert "fault of the test" not in caplog.text


@pytest.mark.parametrize("role", ["submission", "incoming", "mxdeliv", "sign"])
def test_postfix_waits_for_no_answer_to_fields_and_pieces_of_the_body(filter_, role):
    """Each answer would be a round trip: hundreds for a message of 30 MB."""
    with MilterClient(filter_.sockets / role) as client:
        assert client.steps & NO_REPLY_HEADER
        assert client.steps & NO_REPLY_BODY


@pytest.mark.parametrize("role", ["submission", "sign"])
def test_large_message_takes_long(role):
    session = ROLES[role](shared_state())
    session.body(b"x" * 256 * 1024)
    assert not session.takes_long()
    session.body(b"x")
    assert session.takes_long()


@pytest.mark.parametrize("role", ["incoming", "mxdeliv"])
def test_message_whose_signature_is_looked_up_takes_long(role):
    shared = shared_state()
    session = ROLES[role](shared)
    assert not session.takes_long()
    session.body(b"x" * 257 * 1024)
    assert session.takes_long()
    session = ROLES[role](shared)
    shared.keys = object()
    assert session.takes_long()
