"""What counts as encrypted."""

import base64
import quopri

import pytest
from support import messages
from support.filter_rules import ARMOR, NEEDED, OCTETS, receive, submit
from support.messages import encrypted_body, fields


def body_with(part: bytes) -> bytes:
    """Return an encrypted message's body with its second part replaced."""
    start = encrypted_body(b"@").index(b"--=_edge\r\nContent-Type: application/octet-stream")
    return encrypted_body()[:start] + b"--=_edge\r\n" + part + b"\r\n--=_edge--\r\n"


ENCODED = base64.encodebytes(ARMOR).replace(b"\n", b"\r\n")

GOOD_BODIES = {
    "base64": body_with(OCTETS + b"Content-Transfer-Encoding: base64\r\n\r\n" + ENCODED),
    "quoted-printable": body_with(
        OCTETS
        + b"Content-Transfer-Encoding: Quoted-Printable\r\n\r\n"
        + quopri.encodestring(ARMOR.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
    ),
    "7bit": body_with(OCTETS + b"Content-Transfer-Encoding: 7bit\r\n\r\n" + ARMOR),
    "space after the boundary": encrypted_body().replace(b"--=_edge\r\n", b"--=_edge \t\r\n"),
    "no line end at the end": encrypted_body().removesuffix(b"\r\n"),
    "an empty preamble and epilogue": b"\r\n" + encrypted_body() + b"\r\n\r\n",
    "folded and in capitals": encrypted_body().replace(
        b"Content-Type: application/pgp-encrypted", b"CONTENT-type:\r\n Application/PGP-encrypted;"
    ),
}

# The body; a part of it that a reader might show or that no standard allows.
BAD_BODIES = {
    "nothing": b"",
    "plain text": b"Hello\r\n",
    "no second part": encrypted_body()[
        : encrypted_body().index(b"--=_edge\r\nContent-Type: app", 9)
    ]
    + b"--=_edge--\r\n",
    "a third part": encrypted_body().replace(
        b"--=_edge--", b"--=_edge\r\nContent-Type: text/plain\r\n\r\nHello\r\n--=_edge--"
    ),
    "an empty third part": encrypted_body().replace(b"--=_edge--", b"--=_edge\r\n--=_edge--"),
    "parts swapped": (
        b"--=_edge\r\n" + OCTETS + b"\r\n" + ARMOR + b"\r\n--=_edge\r\n"
        b"Content-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n--=_edge--\r\n"
    ),
    "a boundary that never closes": encrypted_body().removesuffix(b"--=_edge--\r\n"),
    "a boundary that nearly closes": encrypted_body().replace(b"--=_edge--", b"--=_edge-"),
    "another boundary": encrypted_body(boundary=b"other"),
    "a delimiter that goes on": encrypted_body().replace(b"--=_edge\r\n", b"--=_edge x\r\n"),
    "a multipart in place of the first part": encrypted_body().replace(
        b"Content-Type: application/pgp-encrypted",
        b"Content-Type: multipart/mixed; boundary=in",
    ),
    "a line that begins with the boundary": encrypted_body().replace(
        b"--=_edge--", b"--=_edgewise\r\n--=_edge--"
    ),
    "text after the closing boundary": encrypted_body().replace(b"--=_edge--", b"--=_edge--Hello"),
    "Version: 2": encrypted_body().replace(b"Version: 1", b"Version: 2"),
    "Version: 1 and text": encrypted_body().replace(b"Version: 1", b"Version: 1\r\nHello"),
    "no Version": encrypted_body().replace(b"Version: 1", b""),
    "another first type": encrypted_body().replace(b"application/pgp-encrypted", b"text/plain"),
    "another second type": encrypted_body().replace(b"application/octet-stream", b"text/plain"),
    "no type": body_with(b"\r\n" + ARMOR),
    "two types": body_with(OCTETS + b"Content-Type: text/plain\r\n\r\n" + ARMOR),
    "a nested multipart": body_with(
        b'Content-Type: multipart/mixed; boundary="inner"\r\n\r\n--inner\r\n'
        + OCTETS
        + b"\r\n"
        + ARMOR
        + b"\r\n--inner--\r\n"
    ),
    "an attached message": body_with(b"Content-Type: message/rfc822\r\n\r\n" + OCTETS + ARMOR),
    "a part without a header's end": body_with(OCTETS),
    "a part whose header is no header": body_with(b"Hello\r\n" + OCTETS + b"\r\n" + ARMOR),
    "8-bit junk": body_with(OCTETS + b"\r\n\xff\xfe\xfd"),
    "8-bit junk before the armor": body_with(OCTETS + b"\r\n\xff\r\n" + ARMOR),
    "an unknown encoding": body_with(
        OCTETS + b"Content-Transfer-Encoding: x-uuencode\r\n\r\n" + ARMOR
    ),
    "two encodings": body_with(
        OCTETS
        + b"Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + ARMOR
    ),
    "base64 that is none": body_with(
        OCTETS + b"Content-Transfer-Encoding: base64\r\n\r\n!" + ENCODED
    ),
    "text in the armor": body_with(OCTETS + b"\r\n" + ARMOR + b"Hello\r\n"),
    "literal data": body_with(OCTETS + b"\r\n" + messages.armor(b"\xcb\x0bu\0\0\0\0\0Hello")),
}


@pytest.mark.parametrize("body", GOOD_BODIES.values(), ids=GOOD_BODIES)
def test_is_encrypted_reads(body):
    assert submit(fields(), body) == ""
    assert receive(fields(), body) == ""


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_is_encrypted_of_anything_else_refuses(body):
    assert submit(fields(), body) == NEEDED
    assert receive(fields(), body) == NEEDED


def test_is_encrypted_with_text_around_the_parts_is_for_others_only():
    """Some mail programs explain themselves in the preamble; ours send no clear text anywhere."""
    for body in (
        b"This is an OpenPGP/MIME encrypted message (RFC 4880 and 3156)\r\n" + encrypted_body(),
        encrypted_body() + b"Hello\r\n",
    ):
        assert submit(fields(), body) == NEEDED
        assert receive(fields(), body) == ""


TYPES = {
    "no boundary": "multipart/encrypted",
    "an empty boundary": 'multipart/encrypted; boundary=""',
    "two boundaries": 'multipart/encrypted; boundary="x"; boundary="=_edge"',
    "an encoded boundary": "multipart/encrypted; boundary*=utf-8''=_edge",
    "a continued boundary": 'multipart/encrypted; boundary="=_edge"; boundary*0="x"',
    "a long boundary": f'multipart/encrypted; boundary="{"x" * 71}"',
    "a boundary with a space at its end": 'multipart/encrypted; boundary="=_edge "',
    "an open quote": 'multipart/encrypted; boundary="=_edge',
    "a comment": '(a) multipart/encrypted; boundary="=_edge"',
    "two types": 'multipart/encrypted, text/plain; boundary="=_edge"',
    "multipart/mixed": 'multipart/mixed; boundary="=_edge"',
    "multipart/signed": 'multipart/signed; boundary="=_edge"',
    "no subtype": 'multipart; boundary="=_edge"',
    "nothing": "",
    "text between": 'multipart/encrypted; x boundary="=_edge"',
}


@pytest.mark.parametrize("value", TYPES.values(), ids=TYPES)
def test_content_type_that_is_not_plain_refuses(value):
    assert submit(fields(Content_Type=value), encrypted_body()) == NEEDED
    assert receive(fields(Content_Type=value), encrypted_body()) == NEEDED


@pytest.mark.parametrize(
    "value",
    [
        'multipart/encrypted; boundary="=_edge"',
        'Multipart/Encrypted;BOUNDARY="=\\_edge";',
        'multipart/encrypted;\r\n protocol="application/pgp-encrypted" ; boundary="=_edge" ;',
    ],
)
def test_content_type_in_other_spellings_is_read(value):
    assert submit(fields(Content_Type=value), encrypted_body()) == ""


def test_content_type_of_100_kb_is_read_in_no_time():
    """Nested repetitions in a regular expression would take longer than the universe."""
    for value in ('"' * 100_000, "; a" * 30_000, 'x="' + "\\" * 100_000, " " * 100_000):
        assert submit(fields(Content_Type="multipart/encrypted; " + value), b"") == NEEDED
    for value in ("(" * 4000, '"' * 4001, "a." * 2000, "a " * 2000, '"a"' * 1300, "()" * 2000):
        assert submit(fields(From=value + "<"), b"").startswith("500 Invalid FROM")
