"""DKIM's canonical forms and tag lists (RFC 6376 section 3), for signing and for verifying.

Public libraries use Python loops, or regular expressions that need quadratic time for hostile white
space. This module makes a few passes in C, also over a body of 30 MB.
"""

import hashlib
import re

from chatmaild.message.mime import Field

_SPACES = re.compile(rb"[ \t\r\n]+")
# The value of b= and all white space around it (section 3.7).
_SIGNATURE_VALUE = re.compile(rb"((?:^|;)[ \t\r\n]*b[ \t\r\n]*=)[^;]*")
_TAG_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")


def parse_tags(text: bytes) -> dict[str, bytes]:
    """Return the tags of a tag list. Each run of white space becomes one space.

    Raises ValueError for a list that section 3.2 does not allow.
    """
    tags: dict[str, bytes] = {}
    specs = _SPACES.sub(b" ", text).split(b";")
    if not specs[-1].strip():
        specs.pop()
    for spec in specs:
        name, equals, value = spec.partition(b"=")
        name = name.strip()
        if not equals or not _TAG_NAME.fullmatch(name) or name.decode() in tags:
            raise ValueError("a broken tag list")
        tags[name.decode()] = value.strip()
    return tags


def signed_bytes(fields: list[Field], names: list[bytes], signature: Field, relaxed: bool) -> bytes:
    """Return the bytes that a signature covers (section 3.7).

    names: the names in h=, in lower case. A name that occurs twice means the last field of that
        name, and then the field above it.
    signature: the DKIM-Signature field itself. This function leaves out the value of its b=.
    """
    unused: dict[bytes, list[Field]] = {}
    for field in fields:
        unused.setdefault(field[0].lower(), []).append(field)
    chosen = [unused[name].pop() for name in names if unused.get(name)]
    form = _relaxed_field if relaxed else _simple_field
    name, value = signature
    last = form((name, _SIGNATURE_VALUE.sub(rb"\1", value)))
    return b"".join([*(form(field) for field in chosen), last.removesuffix(b"\r\n")])


def _simple_field(field: Field) -> bytes:
    return b"%b:%b\r\n" % field


def _relaxed_field(field: Field) -> bytes:
    name, value = field
    return b"%b:%b\r\n" % (name.lower().rstrip(), _SPACES.sub(b" ", value).strip(b" "))


def body_hash(body: bytes, relaxed: bool) -> tuple[bytes, int]:
    """Return the SHA-256 and the length in bytes of the canonical body (section 3.4)."""
    if relaxed:
        body = _relaxed_lines(body)
    end = _without_empty_lines(body)
    digest = hashlib.sha256(memoryview(body)[:end])
    if end and not body.endswith(b"\r\n", 0, end):
        digest.update(b"\r\n")
        end += 2
    elif not end and not relaxed:
        digest.update(b"\r\n")
        end = 2
    return digest.digest(), end


def _relaxed_lines(body: bytes) -> bytes:
    """Replace each run of white space by one space, and remove white space at the ends of lines.

    Nearly every body needs three searches and no copy. Replacing two spaces by one needs log2(n)
    passes for a run of n spaces. The long lengths come first, so the number of passes is bounded
    for any n.
    """
    if b"\t" in body:
        body = body.replace(b"\t", b" ")
    if b"  " in body:
        for length in (4096, 64, 8):
            body = body.replace(b" " * length, b" ")
        while b"  " in body:
            body = body.replace(b"  ", b" ")
    if b" \r\n" in body:
        body = body.replace(b" \r\n", b"\r\n")
    return body[:-1] if body.endswith(b" ") else body


def _without_empty_lines(body: bytes) -> int:
    """Return the length of the body without the empty lines at its end."""
    end = len(body)
    for lines in (1 << 14, 1 << 7, 1):
        block = b"\r\n" * lines
        while body.endswith(block, 0, end):
            end -= len(block)
    if end and body.startswith(b"\r\n", end):
        end += 2
    return end
