"""Header fields, Content-Type and multipart bodies of a message, read strictly.

Text that two programs could read in two ways is an error here. There is no Python loop over the
bytes of a body: `bytes.find` splits it, and functions in C decode it.
"""

import binascii
import re

# RFC 2046 section 5.1.1
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")

_TOKEN = rb"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]+"
_MEDIA_TYPE = re.compile(rb"[ \t]*(%b)/(%b)[ \t]*" % (_TOKEN, _TOKEN))
_PARAMETER = re.compile(
    rb';[ \t]*(?:(%b)[ \t]*=[ \t]*(%b|"(?:[^"\\\r\n]|\\[^\r\n])*")[ \t]*)?' % (_TOKEN, _TOKEN)
)
_FIELD_NAME = re.compile(rb"[!-9;-~]+")
_LINE_END = re.compile(rb"\r?\n")

# Bytes. No program writes such a large header into a part of an encrypted message.
MAX_PART_HEADER = 10_000


class Malformed(ValueError):
    """The message does not have the form that the standards require. The text says where."""


Field = tuple[bytes, bytes]  # the name and the raw value, with its folds and its leading space


def parse_fields(header: bytes) -> list[Field]:
    """Return the fields of a header block, in the same order.

    header: the lines, separated by CR LF, without the empty line after the header.
    Raises Malformed for a line that is not a field.
    """
    fields: list[Field] = []
    for line in header.split(b"\r\n") if header else ():
        if line[:1] in (b" ", b"\t") and fields:
            name, value = fields[-1]
            fields[-1] = name, value + b"\r\n" + line
            continue
        name, colon, value = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(name):
            raise Malformed("a header line is no field")
        fields.append((name, value))
    return fields


def values(fields: list[Field], name: str) -> list[bytes]:
    """Return the values of all fields of this name, unfolded and trimmed."""
    wanted = name.lower().encode()
    return [unfold(value).strip(b" \t") for key, value in fields if key.lower() == wanted]


def unfold(value: bytes) -> bytes:
    """Join the lines of a folded field (RFC 5322 section 2.2.3)."""
    return _LINE_END.sub(b"", value)


def content_type(fields: list[Field]) -> tuple[str, dict[str, bytes]]:
    """Return the media type in lower case, and its parameters. Without a field it is text/plain.

    Raises Malformed for more than one field, and for a value that RFC 2045 section 5.1 does not
    allow. Comments raise Malformed too: the RFC allows them, but no mail program writes them.
    """
    found = values(fields, "Content-Type")
    if not found:
        return "text/plain", {}
    if len(found) > 1:
        raise Malformed("more than one Content-Type")
    [value] = found
    media_type = _MEDIA_TYPE.match(value)
    if not media_type:
        raise Malformed("the Content-Type names no type")
    parameters: dict[str, bytes] = {}
    position = media_type.end()
    while position < len(value):
        parameter = _PARAMETER.match(value, position)
        if not parameter:
            raise Malformed("the Content-Type has a broken parameter")
        position = parameter.end()
        if parameter[1]:
            name = parameter[1].decode().lower()
            if name in parameters:
                raise Malformed("the Content-Type names a parameter twice")
            parameters[name] = _unquote(parameter[2])
    return b"/".join(media_type.groups()).decode().lower(), parameters


def _unquote(value: bytes) -> bytes:
    """Return the text that a token or a quoted string stands for."""
    if not value.startswith(b'"'):
        return value
    return re.sub(rb"\\(.)", rb"\1", value[1:-1])


def parts(body: bytes, parameters: dict[str, bytes], most: int) -> tuple[list[memoryview], bytes]:
    """Return the parts of a multipart body, and the text before and after them.

    The parts are views, because copies would double the memory for a message.

    parameters: the parameters of the Content-Type. most: the largest allowed number of parts.
    Raises Malformed when a delimiter is missing or could be read in two ways.
    """
    boundary = parameters.get("boundary", b"")
    if not _BOUNDARY.fullmatch(boundary) or any(
        name.startswith("boundary*") for name in parameters
    ):
        raise Malformed("no proper boundary")
    delimiter = b"--" + boundary
    found: list[memoryview] = []
    view = memoryview(body)
    position = 0 if body.startswith(delimiter) else _find_delimiter(body, delimiter, 0)
    before = body[:position]
    while True:
        line_end = body.find(b"\r\n", position)
        rest = body[position + len(delimiter) : line_end if line_end >= 0 else len(body)]
        rest = rest.rstrip(b" \t")
        if rest == b"--":
            return found, before + (body[line_end:] if line_end >= 0 else b"")
        if rest or line_end < 0:
            raise Malformed("a line begins with the boundary and goes on")
        if len(found) == most:
            raise Malformed(f"more than {most} parts")
        start = line_end + 2
        position = _find_delimiter(body, delimiter, line_end)
        found.append(view[start : max(start, position - 2)])


def _find_delimiter(body: bytes, delimiter: bytes, position: int) -> int:
    """Return the offset of the next delimiter line. Raises Malformed without one."""
    found = body.find(b"\r\n" + delimiter, position)
    if found < 0:
        raise Malformed("the multipart body is not closed")
    return found + 2


def divided(part: memoryview) -> tuple[list[Field], memoryview]:
    """Return the header and the content of a part. Raises Malformed."""
    head = bytes(part[:MAX_PART_HEADER])
    end = 0 if head.startswith(b"\r\n") else head.find(b"\r\n\r\n")
    if end < 0:
        raise Malformed("the header of a part does not end")
    return parse_fields(head[:end]), part[end + (4 if end else 2) :]


def leaf(part: memoryview) -> tuple[str, bytes]:
    """Return the media type and the decoded content of a part.

    Raises Malformed, also for a part that is itself a multipart or a message.
    """
    fields, content = divided(part)
    return single(fields, bytes(content))


def single(fields: list[Field], content: bytes) -> tuple[str, bytes]:
    """Return the media type and the decoded content of a message or a part that has no parts.

    fields: its header. content: the bytes after the header.
    Raises Malformed, also for a multipart or a message.
    """
    media_type, _ = content_type(fields)
    if media_type.startswith(("multipart/", "message/")):
        raise Malformed("a part has parts of its own")
    encodings = values(fields, "Content-Transfer-Encoding") or [b"7bit"]
    if len(encodings) > 1:
        raise Malformed("more than one Content-Transfer-Encoding")
    return media_type, _decode(encodings[0].lower(), content)


def _decode(encoding: bytes, content: bytes) -> bytes:
    """Decode a transfer encoding (RFC 2045 section 6). Raises Malformed."""
    if encoding in (b"7bit", b"8bit", b"binary"):
        return content
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(content)
    if encoding != b"base64":
        raise Malformed("unknown Content-Transfer-Encoding")
    try:
        return binascii.a2b_base64(content.translate(None, b"\r\n"), strict_mode=True)
    except binascii.Error:
        raise Malformed("a part is not base64") from None
