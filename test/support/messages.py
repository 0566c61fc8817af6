"""Messages for the filter's tests, encrypted by Sequoia."""

import base64
import functools
import os

import pysequoia

SENDER = "alice0000@chat.example.org"
RECIPIENT = "bobby0000@chat.example.org"
STRANGER = "carol@classic.example.net"


@functools.cache
def certificate() -> pysequoia.Cert:
    return pysequoia.Tsk.generate("Bob <bob@example.org>").extract_certificate()


@functools.cache
def armored(text: bytes = b"Content-Type: text/plain\r\n\r\nHello") -> bytes:
    """Return an armored OpenPGP message to the certificate. Its lines end with CRLF."""
    message = bytes(pysequoia.encrypt(text, recipients=[certificate()]))
    return b"\r\n".join(message.splitlines()) + b"\r\n"


@functools.cache
def packets() -> bytes:
    return dearmor(armored())


def dearmor(armor: bytes) -> bytes:
    lines = armor.split(b"\r\n\r\n", 1)[1].split(b"\r\n")
    return base64.b64decode(b"".join(line for line in lines if line and line[:1] not in b"-="))


def armor(data: bytes, header: bytes = b"", checksum: bytes = b"") -> bytes:
    """Make armor by hand, so that a test can make wrong armor."""
    text = base64.b64encode(data)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\r\n".join(
        [
            b"-----BEGIN PGP MESSAGE-----",
            header,
            *lines,
            *([checksum] if checksum else []),
            b"-----END PGP MESSAGE-----",
            b"",
        ]
    )


def encrypted_body(armor: bytes | None = None, boundary: bytes = b"=_edge") -> bytes:
    """Return the body of a multipart/encrypted message (RFC 3156)."""
    return (
        b"--%b\r\nContent-Type: application/pgp-encrypted\r\n"
        b"Content-Description: PGP/MIME version identification\r\n\r\nVersion: 1\r\n\r\n"
        b'--%b\r\nContent-Type: application/octet-stream; name="encrypted.asc"\r\n'
        b'Content-Disposition: inline; filename="encrypted.asc";\r\n\r\n%b\r\n--%b--\r\n'
    ) % (boundary, boundary, armored() if armor is None else armor, boundary)


def random_body(size: int) -> bytes:
    """Return the body of an encrypted message of about `size` bytes, unlike any other."""
    data = os.urandom(size * 48 // 66)
    session_key = b"\xc1\x5e\x03" + bytes(93)
    packet = b"\xd2\xff" + (len(data) + 1).to_bytes(4, "big") + b"\x02" + data
    return encrypted_body(armor(session_key + packet, checksum=b"=njUN"))


def fields(author: str = SENDER, **others: str | None) -> list[tuple[bytes, bytes]]:
    """Return the header of an encrypted message.

    others: fields to replace or to add, with `_` for `-` in names. None removes a field.
    """
    header = {
        "From": f'"Alice" <{author}>',
        "To": f"<{RECIPIENT}>",
        "Subject": "The secret plan",
        "Date": "Sun, 22 Nov 2026 12:00:00 +0000",
        "Message-ID": "<one@chat.example.org>",
        "MIME-Version": "1.0",
        "Content-Type": 'multipart/encrypted; protocol="application/pgp-encrypted";\r\n'
        '\tboundary="=_edge"',
    }
    header |= {name.replace("_", "-"): value for name, value in others.items()}
    return [
        (name.encode(), b" " + value.encode())
        for name, value in header.items()
        if value is not None
    ]


def secure_join(step: str = "vc-request") -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return header and body of a Secure-Join request."""
    header = fields(Secure_Join=step, Content_Type='multipart/mixed; boundary="=_edge"')
    body = (
        b"--=_edge\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
        b"Secure-Join: %b\r\n\r\n--=_edge--\r\n"
    ) % step.encode()
    return header, body
