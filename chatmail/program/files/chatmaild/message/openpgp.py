"""The check that an armored block is exactly one OpenPGP-encrypted message (RFC 9580).

The check reads the framing of the packets. A relay cannot read the content of an encrypted message.
"""

import binascii
import re

BEGIN = b"-----BEGIN PGP MESSAGE-----"
END = b"-----END PGP MESSAGE-----"

SESSION_KEY_PACKETS = (1, 3)  # PKESK and SKESK, RFC 9580 sections 5.1 and 5.3
ENCRYPTED_DATA_PACKET = 18  # SEIPD, section 5.13
# GnuPG's OCB packet (draft-koch-librepgp). By default GnuPG writes it to keys that GnuPG made.
GNUPG_DATA_PACKET = 20
DATA_PACKETS = (ENCRYPTED_DATA_PACKET, GNUPG_DATA_PACKET)

# A chunk with a partial length may have one byte. Without a limit, reading the lengths of a 30 MB
# message would take seconds. Old Go libraries write chunks of about 1.6 KB: 20000 in 30 MB.
MAX_LENGTHS = 100_000

# Bytes. No program writes so many armor headers.
MAX_ARMOR_HEADER = 10_000

# Bytes that are decoded at a time. They need few calls and fit into the processor's cache.
DECODE_STEP = 1 << 18

_BEGIN_LINE = re.compile(BEGIN + rb"\r?\n")
# RFC 4880 section 6.2. The header Hash is left out, because it belongs to signed text.
_ARMOR_HEADER = re.compile(rb"(?:Version|Comment|MessageID|Charset): ?[^\r\n]*\r?\n")
_EMPTY_LINES = re.compile(rb"[\r\n]*+")
_BLANK_LINES = re.compile(rb"(?:[ \t\r\n]*\n)?")
_CHECKSUM = re.compile(rb"\n=[A-Za-z0-9+/]{4}\Z")
_PADDING = re.compile(rb"=[\r\n]*+=?")


class NotOpenPGP(ValueError):
    """The bytes are not OpenPGP packets. The text says where."""


def is_encrypted_armor(armor: bytes, outgoing: bool) -> bool:
    """Return whether `armor` is one armored block with one encrypted message.

    armor: the whole decoded content of a MIME part.
    outgoing: the message leaves the relay. Then armor headers, blank lines before the armor and
        GnuPG's packet are not allowed, because chat apps do not write them. Other mail programs
        write them, so they are allowed in messages that arrive.
    """
    begin = _BEGIN_LINE.match(armor, 0 if outgoing else _BLANK_LINES.match(armor).end())
    end = armor.rfind(END)
    if not begin or end < begin.end() or armor[end + len(END) :].strip(b"\r\n"):
        return False
    start = begin.end()
    if not outgoing:
        limit = start + MAX_ARMOR_HEADER
        while header := _ARMOR_HEADER.match(armor, start, limit):
            start = header.end()
        start = _BLANK_LINES.match(armor, start).end()
    start = _EMPTY_LINES.match(armor, start).end()
    try:
        return is_encrypted_message(_decode(armor, start, end), outgoing)
    except NotOpenPGP:
        return False


def _decode(armor: bytes, start: int, end: int) -> bytearray:
    """Decode the base64 text between two offsets strictly. The CRC24 line may be missing.

    The value of the checksum is not checked, because it must not decide (RFC 9580 section 6.1).
    Raises NotOpenPGP for other text than base64 and line ends.
    """
    end = _without_line_ends(armor, start, end)
    checksum = _CHECKSUM.search(armor, max(start, end - 6), end)
    if checksum:
        end = _without_line_ends(armor, start, checksum.start())
    padding = armor.find(b"=", start, end)
    if padding >= 0 and not _PADDING.fullmatch(armor, padding, end):
        raise NotOpenPGP("padding inside the base64 text")
    packets = bytearray()
    rest = b""
    for step in range(start, end, DECODE_STEP):
        text = rest + armor[step : min(step + DECODE_STEP, end)].translate(None, b"\r\n")
        whole = len(text) // 4 * 4
        try:
            packets += binascii.a2b_base64(text[:whole], strict_mode=True)
        except binascii.Error as error:
            raise NotOpenPGP(str(error)) from None
        rest = text[whole:]
    if rest:
        raise NotOpenPGP("the base64 text is cut off")
    return packets


def _without_line_ends(data: bytes, start: int, end: int) -> int:
    """Return the end of `data[start:end]` without the line ends there. Copies are small."""
    while end > start:
        step = max(start, end - DECODE_STEP)
        text = data[step:end].rstrip(b"\r\n")
        if text:
            return step + len(text)
        end = step
    return start


def is_encrypted_message(packets: bytes, outgoing: bool) -> bool:
    """Return whether the packets are session keys and then exactly one encrypted data packet.

    packets: OpenPGP packets in binary form.
    outgoing: the message leaves the relay, so GnuPG's own data packet is not allowed.
    Raises NotOpenPGP when the framing of a packet is broken.
    """
    position = 0
    budget = MAX_LENGTHS
    while position < len(packets):
        tag, position, budget = _skip_packet(packets, position, budget)
        if tag == ENCRYPTED_DATA_PACKET or (tag == GNUPG_DATA_PACKET and not outgoing):
            return position == len(packets)
        if tag not in SESSION_KEY_PACKETS:
            return False
    return False


def _skip_packet(packets: bytes, position: int, budget: int) -> tuple[int, int, int]:
    """Return a packet's type, the offset after it, and how many lengths may still be read.

    Raises NotOpenPGP when the packet is cut off or its length is not acceptable.
    """
    first = packets[position]
    if not first & 0x80:
        raise NotOpenPGP("no packet begins here")
    new_format = bool(first & 0x40)
    tag = first & 0x3F if new_format else first >> 2 & 0x0F
    position += 1
    partial = True
    try:
        while partial:
            if not budget:
                raise NotOpenPGP(f"more than {MAX_LENGTHS} packets and chunks")
            budget -= 1
            if new_format:
                length, position, partial = _read_new_length(packets, position)
            else:
                length, position = _read_old_length(packets, position, first & 3)
                partial = False
            if partial and tag not in DATA_PACKETS:
                # RFC 9580 section 4.2.1.4
                raise NotOpenPGP("a session key packet with partial lengths")
            position += length
    except IndexError:
        raise NotOpenPGP("a packet header is cut off") from None
    if position > len(packets):
        raise NotOpenPGP("the last packet is cut off")
    return tag, position, budget


def _read_new_length(packets: bytes, position: int) -> tuple[int, int, bool]:
    """Return a length (RFC 9580 section 4.2.1), the offset after it, and whether it is partial."""
    first = packets[position]
    if first < 192:
        return first, position + 1, False
    if first < 224:
        return (first - 192 << 8) + packets[position + 1] + 192, position + 2, False
    if first < 255:
        return 1 << (first & 0x1F), position + 1, True
    return _read_number(packets, position + 1, 4), position + 5, False


def _read_old_length(packets: bytes, position: int, kind: int) -> tuple[int, int]:
    """Return a length of the old format (RFC 9580 section 4.2.2), and the offset after it."""
    if kind == 3:
        raise NotOpenPGP("an indeterminate length")
    octets = 1 << kind
    return _read_number(packets, position, octets), position + octets


def _read_number(packets: bytes, position: int, octets: int) -> int:
    """Return a big-endian number. Raises IndexError when it is cut off."""
    packets[position + octets - 1]
    return int.from_bytes(packets[position : position + octets], "big")
