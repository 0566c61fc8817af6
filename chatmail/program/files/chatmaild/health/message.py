"""Messages for the check. The encrypted one has valid OpenPGP framing around random bytes.

Nobody can decrypt it, and nobody needs to: a relay reads the framing only.
"""

import base64
import email.utils
import os

from chatmaild.message.mime import Field

BOUNDARY = "chatmail-health"
LINE = 64


def encrypted(sender: str, recipient: str, author: str | None = None) -> tuple[list[Field], bytes]:
    """Return the fields and the body of an encrypted message (RFC 3156 section 4).

    author: the address in From, by default the sender.
    """
    kind = f'multipart/encrypted; protocol="application/pgp-encrypted"; boundary="{BOUNDARY}"'
    armor = base64.b64encode(_make_packets()).decode()
    lines = [armor[start : start + LINE] for start in range(0, len(armor), LINE)]
    body = [
        *(f"--{BOUNDARY}", "Content-Type: application/pgp-encrypted", "", "Version: 1", ""),
        *(f"--{BOUNDARY}", "Content-Type: application/octet-stream", ""),
        *("-----BEGIN PGP MESSAGE-----", "", *lines, "-----END PGP MESSAGE-----", ""),
        *(f"--{BOUNDARY}--", ""),
    ]
    return _make_fields(author or sender, recipient, kind), "\r\n".join(body).encode()


def cleartext(sender: str, recipient: str) -> tuple[list[Field], bytes]:
    """Return the fields and the body of a message without encryption, which must be refused."""
    return _make_fields(sender, recipient, "text/plain"), b"This message is not encrypted.\r\n"


def render(fields: list[Field], body: bytes) -> bytes:
    """Return the bytes of a message."""
    return b"".join(name + b":" + value + b"\r\n" for name, value in fields) + b"\r\n" + body


def _make_fields(author: str, recipient: str, kind: str) -> list[Field]:
    domain = author.rpartition("@")[2].strip("[]")
    values = {
        "From": f"<{author}>",
        "To": f"<{recipient}>",
        "Date": email.utils.formatdate(),
        "Message-ID": email.utils.make_msgid(domain=domain),
        "Subject": "[...]",
        "MIME-Version": "1.0",
        "Content-Type": kind,
    }
    return [(name.encode(), f" {value}".encode()) for name, value in values.items()]


def _make_packets() -> bytes:
    """Return a session key and encrypted data (RFC 9580 sections 5.1 and 5.13)."""
    session_key = b"\x03" + os.urandom(8) + b"\x12" + os.urandom(80)
    return _make_packet(1, session_key) + _make_packet(18, b"\x01" + os.urandom(300))


def _make_packet(tag: int, content: bytes) -> bytes:
    """Return a packet with a length of five octets (RFC 9580 section 4.2.1.3)."""
    return bytes([0xC0 | tag, 0xFF]) + len(content).to_bytes(4, "big") + content
