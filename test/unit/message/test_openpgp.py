"""The check for an armored OpenPGP message: contract, section 6."""

import time

import pysequoia
import pytest
from chatmaild.message import openpgp
from hypothesis import given
from hypothesis import strategies as st
from support import messages


def packet(tag: int, body: bytes) -> bytes:
    """Return a packet with a new-format header and a five-octet length."""
    return bytes([0xC0 | tag, 255]) + len(body).to_bytes(4, "big") + body


def old_packet(tag: int, body: bytes, kind: int = 1) -> bytes:
    """Return a packet with an old-format header; kind 3 is the indeterminate length."""
    length = len(body).to_bytes(1 << kind, "big") if kind < 3 else b""
    return bytes([0x80 | tag << 2 | kind]) + length + body


def partial(tag: int, *chunks: bytes, last: bytes = b"") -> bytes:
    """Return a packet in chunks. Their lengths are powers of two, the last is below 192 bytes."""
    sized = [bytes([0xE0 | len(chunk).bit_length() - 1]) + chunk for chunk in chunks]
    return bytes([0xC0 | tag]) + b"".join(sized) + bytes([len(last)]) + last


PKESK = packet(1, b"\x03" + b"k" * 93)
SKESK = packet(3, b"\x04\x09\x03\x08saltsalt\xff")
SEIPD = packet(18, b"\x01" + b"e" * 200)

ENCRYPTED = {
    "one public key": PKESK + SEIPD,
    "public keys and a password": PKESK + PKESK + SKESK + SEIPD,
    "no session key packet": SEIPD,
    "an old-format session key with 1 length octet": old_packet(1, b"k" * 93, 0) + SEIPD,
    "an old-format session key with 2 length octets": old_packet(1, b"k" * 93, 1) + SEIPD,
    "an old-format session key with 4 length octets": old_packet(1, b"k" * 93, 2) + SEIPD,
    "one-octet length": bytes([0xC0 | 18, 191]) + b"e" * 191,
    "shortest two-octet length": bytes([0xC0 | 18, 192, 0]) + b"e" * 192,
    "longest two-octet length": bytes([0xC0 | 18, 223, 255]) + b"e" * 8383,
    "partial lengths": PKESK + partial(18, b"e" * 512, b"e" * 1024, b"e", last=b"end"),
    "an empty packet of a five-octet length": bytes([0xC0 | 18, 255]) + bytes(4),
    "an empty packet of a one-octet length": bytes([0xC0 | 18, 0]),
    "longest one-octet length of a key": bytes([0xC0 | 1, 191]) + b"k" * 191 + SEIPD,
    "an empty old-format session key": old_packet(1, b"", 1) + SEIPD,
    "partial lengths and an empty last one": PKESK + partial(18, b"e" * 512),
    "partial lengths and a long last one": partial(18, b"e" * 512)[:-1] + b"\xc0\x00" + b"e" * 192,
}

NOT_ENCRYPTED = {
    "nothing": b"",
    "text": b"Hello, world!",
    "a session key alone": PKESK,
    "literal data": packet(11, b"u\x00\x00\x00\x00\x00Hello"),
    "literal data after a session key": PKESK + packet(11, b"u\x00\x00\x00\x00\x00Hello"),
    "literal data before": packet(11, b"Hello") + PKESK + SEIPD,
    "literal data after": PKESK + SEIPD + packet(11, b"Hello"),
    "compressed data": packet(8, b"\x01zip"),
    "a signature first": packet(2, b"\x04sig") + PKESK + SEIPD,
    "a marker packet": packet(10, b"PGP") + PKESK + SEIPD,
    "padding": PKESK + SEIPD + packet(21, b"padding"),
    "encrypted without integrity protection": PKESK + packet(9, b"e" * 200),
    "a second encrypted packet": PKESK + SEIPD + SEIPD,
    "a session key after the data": PKESK + SEIPD + PKESK,
    "trailing bytes": PKESK + SEIPD + b"Hello",
    "one trailing zero": PKESK + SEIPD + b"\0",
    "a data packet cut off": (PKESK + SEIPD)[:-1],
    "a session key cut off": PKESK[:-1],
    "a header cut off after the tag": PKESK + b"\xd2",
    "a two-octet length cut off": b"\xd2\xc0",
    "a five-octet length cut off": b"\xd2\xff\x00\x00",
    "an old-format length cut off": b"\x85\x01",
    "partial lengths cut off": PKESK + partial(18, b"e" * 512)[:-1],
    "partial lengths that go on after the end": b"\xd2\xfe" + b"e" * 100,
    "the longest partial length before a number of four octets": (
        b"\xd2\xfe" + (5).to_bytes(4, "big") + b"eeeee"
    ),
    "a session key in partial lengths": partial(1, b"k" * 512) + SEIPD,
    "an old-format indeterminate length": old_packet(1, b"k" * 93, 3) + SEIPD,
    "an old-format literal of indeterminate length": old_packet(11, b"Hello", 3),
    "old-format compressed data": old_packet(8, b"\x01zip"),
    "no packet between the packets": PKESK + b"\x00" + SEIPD,
    "an indeterminate length before a number of eight octets": (
        bytes([0x80 | 1 << 2 | 3]) + (5).to_bytes(8, "big") + b"kkkkk" + SEIPD
    ),
    "an old-format session key cut off by one": old_packet(1, b"k" * 93, 1)[:-1],
    "an old-format session key whose length takes the data": old_packet(1, b"k" + SEIPD, 1),
    "an old-format session key without the first bit": bytes([1 << 2, 5]) + b"kkkkk" + SEIPD,
    "a new-format session key without the first bit": bytes([0x41, 5]) + b"kkkkk" + SEIPD,
    "a data packet without the first bit": PKESK + bytes([0x40 | 18, 5]) + b"eeeee",
    "a length beyond everything": b"\xd2\xff\xff\xff\xff\xff" + b"e" * 100,
}


@pytest.mark.parametrize("packets", ENCRYPTED.values(), ids=ENCRYPTED)
def test_is_encrypted_message_accepts(packets):
    assert openpgp.is_encrypted_message(packets, outgoing=True)
    assert openpgp.is_encrypted_armor(messages.armor(packets), outgoing=True)


@pytest.mark.parametrize("packets", NOT_ENCRYPTED.values(), ids=NOT_ENCRYPTED)
def test_is_encrypted_armor_refuses_packets(packets):
    assert not openpgp.is_encrypted_armor(messages.armor(packets), outgoing=True)
    assert not openpgp.is_encrypted_armor(messages.armor(packets), outgoing=False)


OCB = b"\x01\x09\x02\x10" + b"n" * 15 + b"e" * 200

GNUPG = {
    "a five-octet length": PKESK + packet(20, OCB),
    "partial lengths": old_packet(1, b"k" * 93) + partial(20, b"e" * 512, b"e" * 512, last=b"end"),
    "a password": SKESK + packet(20, OCB),
}


@pytest.mark.parametrize("packets", GNUPG.values(), ids=GNUPG)
def test_is_encrypted_armor_accepts_gnupg_only_in_mail_to_other_relays(packets):
    """GnuPG since 2.3 writes a data packet of its own. Once, the relay refused such mail."""
    assert openpgp.is_encrypted_armor(messages.armor(packets), outgoing=False)
    assert not openpgp.is_encrypted_armor(messages.armor(packets), outgoing=True)
    for rest in (b"\0", SEIPD, packet(11, b"Hello")):
        assert not openpgp.is_encrypted_armor(messages.armor(packets + rest), outgoing=False)
    assert not openpgp.is_encrypted_armor(messages.armor(packets[:-1]), outgoing=False)


def test_is_encrypted_message_with_millions_of_chunks_gives_up():
    """Without a limit of their number, chunks of one byte cost seconds of CPU time."""
    chunks = b"\xd2" + b"\xe0e" * (openpgp.MAX_LENGTHS + 1) + b"\x00"
    with pytest.raises(openpgp.NotOpenPGP, match="more than"):
        openpgp.is_encrypted_message(chunks, outgoing=True)


def sequoia(profile=None, **options) -> bytes:
    generation = {"profile": profile} if profile else {}
    key = pysequoia.Tsk.generate("Bob <bob@example.org>", **generation)
    certificate = key.extract_certificate()
    made = bytes(pysequoia.encrypt(b"Hello" * 1000, recipients=[certificate], **options))
    return b"\r\n".join(made.splitlines()) + b"\r\n"


def test_is_encrypted_armor_accepts_what_sequoia_writes():
    by_password = bytes(pysequoia.encrypt(b"Hello", passwords=["a password"]))
    for armor in (
        sequoia(),
        sequoia(pysequoia.Profile.RFC4880),
        sequoia(pysequoia.Profile.RFC9580),  # version 6 keys, AEAD
        sequoia(passwords=["a password"]),
        b"\r\n".join(by_password.splitlines()) + b"\r\n",
    ):
        assert openpgp.is_encrypted_armor(armor, outgoing=True)


def test_is_encrypted_armor_refuses_what_sequoia_signs_only():
    key = pysequoia.Tsk.generate("Alice <alice@example.org>")
    signed = bytes(pysequoia.sign(key.signer(), b"Hello"))
    assert signed.startswith(b"-----BEGIN PGP MESSAGE-----")
    assert not openpgp.is_encrypted_armor(b"\r\n".join(signed.splitlines()), outgoing=False)


GOOD = PKESK + SEIPD
BEGIN, END = b"-----BEGIN PGP MESSAGE-----\r\n", b"-----END PGP MESSAGE-----"
TEXT = messages.armor(GOOD).removeprefix(BEGIN + b"\r\n").removesuffix(END + b"\r\n")

# The armor, whether a user may send it, whether it may arrive.
ARMORS = {
    "as it should be": (BEGIN + b"\r\n" + TEXT + END + b"\r\n", True, True),
    "no line end at the end": (BEGIN + b"\r\n" + TEXT + END, True, True),
    "line ends at the end": (BEGIN + b"\r\n" + TEXT + END + b"\r\n\r\n\r\n", True, True),
    "no empty line": (BEGIN + TEXT + END, True, True),
    "LF as in a decoded part": ((BEGIN + b"\r\n" + TEXT + END).replace(b"\r", b""), True, True),
    "a CRC24": (messages.armor(GOOD, checksum=b"=njUN"), True, True),
    "a CRC24 and LF": (messages.armor(GOOD, checksum=b"=njUN").replace(b"\r", b""), True, True),
    "a CRC24 after and before empty lines": (
        BEGIN + b"\r\n" + TEXT + b"\r\n\r\n=njUN\r\n\r\n\r\n" + END,
        True,
        True,
    ),
    "a CRC24 alone": (BEGIN + b"\r\n=njUN\r\n" + END, False, False),
    "a CRC24 before the text": (BEGIN + b"\r\n=njUN\r\n" + TEXT + END, False, False),
    "a CRC24 amid the text": (
        BEGIN + b"\r\n" + TEXT[:66] + b"=njUN\r\n" + TEXT[66:] + END,
        False,
        False,
    ),
    "a CRC24 of five letters": (messages.armor(GOOD, checksum=b"=njUNa"), False, False),
    "a CRC24 and text": (messages.armor(GOOD, checksum=b"=njUN\r\nAAAA"), False, False),
    "one long line": (BEGIN + b"\r\n" + TEXT.replace(b"\r\n", b"") + b"\r\n" + END, True, True),
    "a Version line": (messages.armor(GOOD, b"Version: GnuPG v2\r\n"), False, True),
    "a Version line and no empty line": (BEGIN + b"Version: 1\r\n" + TEXT + END, False, True),
    "a Comment line": (messages.armor(GOOD, b"Comment: Hello\r\n"), False, True),
    "two lines of header": (messages.armor(GOOD, b"Version: 1\r\nComment: 2\r\n"), False, True),
    "many lines of header": (
        messages.armor(
            GOOD,
            b"Charset: utf-8\r\nVersion: GnuPG v2.0.22 (MingW32)\r\nComment: One\r\n"
            b"Comment: https://example.org/?a=b\r\nMessageID: njUN\r\nComment:\r\n",
        ),
        False,
        True,
    ),
    "a Charset line": (messages.armor(GOOD, b"Charset: windows-1252\r\n"), False, True),
    "header lines and LF": (
        messages.armor(GOOD, b"Version: 1\r\nComment: 2\r\n").replace(b"\r", b""),
        False,
        True,
    ),
    "blanks on the empty line": (
        messages.armor(GOOD, b"Version: 1\r\n \t\r\n").replace(b"\r\n\r\n", b"\r\n"),
        False,
        True,
    ),
    "blank lines before": (b"\r\n \t\r\n\n" + BEGIN + b"\r\n" + TEXT + END, False, True),
    "an empty line before": (b"\r\n" + BEGIN + b"\r\n" + TEXT + END, False, True),
    "a blank before": (b" " + BEGIN + b"\r\n" + TEXT + END, False, False),
    "text between header lines": (
        messages.armor(GOOD, b"Version: 1\r\nHello\r\nComment: 2\r\n"),
        False,
        False,
    ),
    "a header line after the empty line": (
        BEGIN + b"Version: 1\r\n\r\nComment: 2\r\n" + TEXT + END,
        False,
        False,
    ),
    "header lines in place of the text": (BEGIN + b"Comment: Hello\r\n" * 9 + END, False, False),
    "another header": (messages.armor(GOOD, b"Hash: SHA256\r\n"), False, False),
    "text before": (b"Hello\r\n" + BEGIN + b"\r\n" + TEXT + END, False, False),
    "text after": (BEGIN + b"\r\n" + TEXT + END + b"\r\nHello", False, False),
    "a space after": (BEGIN + b"\r\n" + TEXT + END + b" \r\n", False, False),
    "text on the first line": (BEGIN[:-2] + b" Hello\r\n\r\n" + TEXT + END, False, False),
    "text on the last line": (BEGIN + b"\r\n" + TEXT + END + b"Hello", False, False),
    "two blocks": ((BEGIN + b"\r\n" + TEXT + END + b"\r\n") * 2, False, False),
    "a signature's armor": (messages.armor(GOOD).replace(b"MESSAGE", b"SIGNATURE"), False, False),
    "a broken CRC24": (messages.armor(GOOD, checksum=b"=ab"), False, False),
    "two CRC24": (messages.armor(GOOD, checksum=b"=njUN\r\n=njUN"), False, False),
    "a CRC24 within a line": (BEGIN + b"\r\n" + TEXT.rstrip() + b"=njUN\r\n" + END, False, False),
    "8-bit junk": (BEGIN + b"\r\n" + b"\xff\xfe" + TEXT + END, False, False),
    "a space in the text": (BEGIN + b"\r\n" + TEXT[:8] + b" " + TEXT[8:] + END, False, False),
    "a dash in the text": (BEGIN + b"\r\n" + TEXT[:8] + b"-" + TEXT[8:] + END, False, False),
    "padding amid the text": (BEGIN + b"\r\nAA==\r\n" + TEXT + END, False, False),
    "text cut off": (BEGIN + b"\r\n" + TEXT.rstrip()[:-1] + b"\r\n" + END, False, False),
    "no text": (BEGIN + b"\r\n" + END, False, False),
    "no end": (BEGIN + b"\r\n" + TEXT, False, False),
    "no begin": (TEXT + END, False, False),
    "nothing": (b"", False, False),
    "end before begin": (END + b"\r\n" + BEGIN, False, False),
    "begin within end": (b"-----BEGIN PGP MESSAGE-----END PGP MESSAGE-----", False, False),
}


@pytest.mark.parametrize(("armor", "sent", "taken"), ARMORS.values(), ids=ARMORS)
def test_is_encrypted_armor_reads_the_armor(armor, sent, taken):
    assert openpgp.is_encrypted_armor(armor, outgoing=True) is sent
    assert openpgp.is_encrypted_armor(armor, outgoing=False) is taken


@pytest.mark.parametrize("rest", [b"A", b"AA", b"AAA", b"=", b"A=", b"A==", b"===="])
def test_is_encrypted_armor_with_letters_after_the_last_four_refuses(rest):
    """Another program might pad them, and find further octets behind the message."""
    whole = packet(18, b"e" * 99)
    assert len(whole) % 3 == 0
    armor = messages.armor(whole)
    assert openpgp.is_encrypted_armor(armor, outgoing=True)
    longer = armor.replace(b"\r\n" + END, rest + b"\r\n" + END)
    assert not openpgp.is_encrypted_armor(longer, outgoing=True)
    assert not openpgp.is_encrypted_armor(longer, outgoing=False)


@pytest.mark.parametrize("step", [4, 5, 7, 64, 1000])
@pytest.mark.parametrize("padding", range(3))
def test_is_encrypted_armor_decodes_alike_at_every_step(monkeypatch, step, padding):
    monkeypatch.setattr(openpgp, "DECODE_STEP", step)
    packets = PKESK + packet(18, b"e" * (200 + padding))
    assert openpgp.is_encrypted_armor(messages.armor(packets, checksum=b"=njUN"), outgoing=True)
    assert not openpgp.is_encrypted_armor(messages.armor(packets + b"\0"), outgoing=True)


@pytest.mark.parametrize("lines", [b"\r\n", b" ", b"\t\r\n", b"Comment: \r\n", b"Version: "])
def test_is_encrypted_armor_with_30_mb_around_the_text_takes_no_time(lines):
    """A regular expression with nested repetitions may try every way to divide 30 MB."""
    long = lines * (30_000_000 // len(lines))
    start = time.monotonic()
    openpgp.is_encrypted_armor(long + BEGIN + b"\r\n" + TEXT + END, outgoing=False)
    openpgp.is_encrypted_armor(BEGIN + long + b"\r\n" + TEXT + END, outgoing=False)
    assert time.monotonic() - start < 5


def test_is_encrypted_armor_with_30_mb_of_zeros_refuses():
    """Zeros are no OpenPGP packet."""
    assert not openpgp.is_encrypted_armor(messages.armor(bytes(22_000_000)), outgoing=False)


@given(st.binary(max_size=300))
def test_is_encrypted_armor_never_raises(data):
    assert openpgp.is_encrypted_armor(data, outgoing=False) is False
    openpgp.is_encrypted_armor(messages.armor(data), outgoing=True)
    openpgp.is_encrypted_armor(messages.armor(PKESK + b"\xd2" + data), outgoing=True)


@given(st.integers(0, len(GOOD) - 1))
def test_is_encrypted_armor_cut_anywhere_refuses(length):
    assert not openpgp.is_encrypted_armor(messages.armor(GOOD[:length]), outgoing=False)
