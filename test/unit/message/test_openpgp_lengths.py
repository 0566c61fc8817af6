"""The limits of OpenPGP messages, exact to one octet."""

import pytest
from chatmaild.message import openpgp
from support import messages

# A data packet of 48 octets, so that its base64 text is one line of 64 letters.
MESSAGE = b"\xd2\x2e" + b"e" * 46


def test_message_of_100000_lengths_is_accepted_and_one_more_is_refused():
    chunks = b"\xe0e" * 99_999
    assert openpgp.is_encrypted_message(b"\xd2" + chunks + b"\0", outgoing=True)
    with pytest.raises(openpgp.NotOpenPGP, match="more than 100000"):
        openpgp.is_encrypted_message(b"\xd2" + chunks + b"\xe0e\0", outgoing=True)


@pytest.mark.parametrize(
    "letters", [b"    ", b"----", b"\xff\xfe\xfd\xfc", b"\t\t\t\t", b"\0\0\0\0"]
)
@pytest.mark.parametrize("position", [0, 4, 30, 60])
def test_letters_that_are_not_of_base64_are_refused_four_at_a_time_too(letters, position):
    """A lenient decoder ignores such letters and finds the message."""
    armor = messages.armor(MESSAGE)
    start = armor.index(b"\r\n\r\n") + 4 + position
    assert openpgp.is_encrypted_armor(armor, outgoing=True)
    broken = armor[:start] + letters + armor[start:]
    assert not openpgp.is_encrypted_armor(broken, outgoing=True)
    assert not openpgp.is_encrypted_armor(broken, outgoing=False)


def test_armor_header_of_10000_octets_is_accepted_and_one_more_is_refused():
    for octets, taken in ((10_000, True), (10_001, False)):
        header = b"Comment: ".ljust(octets - 2, b"x") + b"\r\n"
        armor = messages.armor(MESSAGE, header)
        assert openpgp.is_encrypted_armor(armor, outgoing=False) is taken
        assert not openpgp.is_encrypted_armor(armor, outgoing=True)


@pytest.mark.parametrize("octets", [1, 2, 4])
def test_old_length_is_big_endian_and_whole(octets):
    kind = octets.bit_length() - 1
    body = b"k" * 200
    key = bytes([0x80 | 1 << 2 | kind]) + len(body).to_bytes(octets, "big")
    assert openpgp.is_encrypted_message(key + body + MESSAGE, outgoing=True)
    for cut in range(1, octets + 1):
        with pytest.raises(openpgp.NotOpenPGP, match="cut off"):
            openpgp.is_encrypted_message(key[:cut], outgoing=True)
    with pytest.raises(openpgp.NotOpenPGP, match="the last packet is cut off"):
        openpgp.is_encrypted_message(key + body[:-1], outgoing=True)
