"""A TURN client that asks for one allocation over UDP and gives it back (RFC 8656, RFC 8489)."""

import hashlib
import hmac
import os
import socket
import struct

# RFC 8489 section 5 and 14, RFC 8656 section 17 and 18.
MAGIC = 0x2112A442
HEADER = 20
ALLOCATE, REFRESH = 0x0003, 0x0004
SUCCESS, ERROR = 0x0100, 0x0110
USERNAME, INTEGRITY, ERROR_CODE, REALM, NONCE = 0x0006, 0x0008, 0x0009, 0x0014, 0x0015
LIFETIME, RELAYED_ADDRESS, REQUESTED_TRANSPORT = 0x000D, 0x0016, 0x0019
UDP = bytes([17, 0, 0, 0])
UNAUTHORIZED = 401
# UDP may lose a question, so it is asked again.
ATTEMPTS, PATIENCE = 3, 1.5


class Refused(Exception):
    """The server gave no allocation. The text has its code."""


def make_message(
    kind: int, transaction: bytes, attributes: list[tuple[int, bytes]], key: bytes | None = None
) -> bytes:
    """Return a STUN message, with MESSAGE-INTEGRITY under a key as the last attribute.

    transaction: 12 random bytes. key: that of `make_key`.
    """
    body = b"".join(
        struct.pack("!HH", name, len(value)) + value + bytes(-len(value) % 4)
        for name, value in attributes
    )
    if key is None:
        return struct.pack("!HHI", kind, len(body), MAGIC) + transaction + body
    # The length counts the attribute to come (RFC 8489 section 14.5).
    head = struct.pack("!HHI", kind, len(body) + 24, MAGIC) + transaction + body
    digest = hmac.digest(key, head, hashlib.sha1)
    return head + struct.pack("!HH", INTEGRITY, len(digest)) + digest


def make_key(user: str, realm: str, password: str) -> bytes:
    """Return the key of long-term credentials (RFC 8489 section 9.2.2)."""
    text = f"{user}:{realm}:{password}".encode()
    return hashlib.md5(text, usedforsecurity=False).digest()


def parse_message(data: bytes) -> tuple[int, bytes, dict[int, bytes]]:
    """Return the kind, the transaction and the attributes. Raises ValueError."""
    try:
        kind, length, magic = struct.unpack_from("!HHI", data)
        if magic != MAGIC or length != len(data) - HEADER:
            raise ValueError("no STUN message")
        attributes, position = {}, HEADER
        while position < len(data):
            name, size = struct.unpack_from("!HH", data, position)
            attributes.setdefault(name, data[position + 4 : position + 4 + size])
            position += 4 + size + -size % 4
    except struct.error:
        raise ValueError("a STUN message is cut off") from None
    return kind, data[8:HEADER], attributes


def allocate(host: str, port: int, user: str, password: str) -> None:
    """Get an allocation, and give it back. Raises Refused, TimeoutError and OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.connect((host, port))
        wanted = [(REQUESTED_TRANSPORT, UDP)]
        kind, found = _ask(client, ALLOCATE, wanted)
        if kind != ALLOCATE | ERROR or _read_code(found) != UNAUTHORIZED:
            raise Refused(f"{_read_code(found)} without credentials; expected: 401")
        realm = found.get(REALM, b"")
        key = make_key(user, realm.decode(), password)
        login = [(USERNAME, user.encode()), (REALM, realm), (NONCE, found.get(NONCE, b""))]
        kind, found = _ask(client, ALLOCATE, [*wanted, *login], key)
        if kind != ALLOCATE | SUCCESS or RELAYED_ADDRESS not in found:
            raise Refused(f"{_read_code(found)} with the relay's own credentials")
        _ask(client, REFRESH, [(LIFETIME, bytes(4)), *login], key)


def _ask(client, kind, attributes, key=None):
    """Send a request until its answer comes; return the answer's kind and attributes."""
    transaction = os.urandom(12)
    request = make_message(kind, transaction, attributes, key)
    for _ in range(ATTEMPTS):
        client.send(request)
        try:
            answered, of, found = parse_message(client.recv(2048))
        except (TimeoutError, ValueError):
            continue
        if of == transaction:
            return answered, found
    raise TimeoutError


def _read_code(attributes: dict[int, bytes]) -> int:
    """Return the error code of an answer, 0 without one (RFC 8489 section 14.8)."""
    value = attributes.get(ERROR_CODE, b"")
    return value[2] * 100 + value[3] if len(value) >= 4 else 0
