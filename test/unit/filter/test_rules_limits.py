"""The rules at their limits, and what is read after something that cannot be read."""

import pytest
from chatmaild.common.refusals import Refusal
from chatmaild.filter import rules
from support import messages
from support.messages import RECIPIENT, encrypted_body, fields

OURS = f"From: <{RECIPIENT}>\r\n".encode()
ANOTHERS = b"From: <eve@example.net>\r\n"
RETURNS = b"Content-Type: message/rfc822\r\n\r\n"


def taken(header, body) -> bool:
    try:
        rules.check_incoming("", [RECIPIENT], header, body, lambda: False)
    except Refusal as refusal:
        return refusal.code != "523"
    return True


def bounce(*parts: bytes, kind="multipart/report; report-type=delivery-status; boundary=x"):
    header = fields(
        From="mailer-daemon@[192.0.2.7]", Auto_Submitted="auto-replied", Content_Type=kind
    )
    return header, b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"


def test_bounce_is_looked_at_up_to_its_tenth_part():
    text = b"\r\nUndelivered"
    assert taken(*bounce(*[text] * 9, RETURNS + OURS))
    assert not taken(*bounce(*[text] * 9, RETURNS + ANOTHERS))
    # What is longer counts as one that returns nothing.
    assert taken(*bounce(*[text] * 10, RETURNS + ANOTHERS))


@pytest.mark.parametrize(
    "unreadable",
    [b"no header", b"Content-Type: x\r\n\r\n", RETURNS + b"no header\r\n", RETURNS + b"To: <a@b>"],
)
def test_part_that_cannot_be_read_hides_none_after_it(unreadable):
    assert taken(*bounce(unreadable, RETURNS + OURS))
    assert not taken(*bounce(unreadable, RETURNS + ANOTHERS))


def test_header_that_a_bounce_returns_is_looked_at_up_to_65536_octets():
    end = len(ANOTHERS)
    # The CR LF of the last field may be beyond.
    for octets, seen in ((65_538, True), (65_539, False)):
        filler = b"X: ".ljust(octets - end - 2, b"x") + b"\r\n"
        returned = filler + ANOTHERS + b"\r\nHello"
        assert len(filler + ANOTHERS) == octets
        assert taken(*bounce(RETURNS + returned)) is not seen


def test_bounce_whose_type_is_malformed_refuses():
    kind = "multipart/report; report-type=delivery-status; x boundary=x"
    assert not taken(*bounce(b"\r\nUndelivered", kind=kind))


@pytest.mark.parametrize("kind", ["alternative", "digest", "encrypteD", "mixed", "signed"])
def test_encrypted_message_is_a_multipart_encrypted_and_nothing_else(kind):
    header = fields(Content_Type=f'multipart/{kind}; boundary="=_edge"')
    assert taken(header, encrypted_body()) is (kind == "encrypteD")


def test_from_of_4096_octets_is_the_longest():
    end = f" <{messages.SENDER}>"
    for octets in (4096, 4097):
        author = "a" * (octets - len(end)) + end
        if octets == 4096:
            assert rules.from_address(fields(From=author)) == messages.SENDER
        else:
            with pytest.raises(Refusal):
                rules.from_address(fields(From=author))


def test_single_secure_join_of_1000_octets_is_the_longest():
    header = fields(Secure_Join="vc-request", Content_Type="text/plain")
    text = b"Secure-Join: vc-request"
    assert taken(header, text + b" " * (1000 - len(text)))
    assert not taken(header, text + b" " * (1001 - len(text)))
