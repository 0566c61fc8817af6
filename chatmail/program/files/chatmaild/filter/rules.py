"""The rules for messages that users send and for messages that arrive. No I/O.

When a message breaks a rule, the function raises Refusal, which has the SMTP reply.
"""

import ipaddress
import re
from collections.abc import Callable

from chatmaild.common.refusals import Refusal
from chatmaild.message import mime, openpgp
from chatmaild.message.mime import Field

UNENCRYPTED = "Encryption Needed: Invalid Unencrypted Mail"
SECURE_JOIN_STEPS = (b"vc-request", b"vg-request")
# Bytes: one line of text, with room for a transfer encoding and blank lines.
MAX_SECURE_JOIN = 1000

REMOVED_FIELDS = (b"received", b"x-originating-ip", b"x-mailer", b"user-agent")
SUBJECT = b" [...]"

# Bytes of a From field: a name and an address. The names that mail programs write are far shorter.
MAX_FROM = 4096

# The parts in which a report returns a message or its header (RFC 6522 section 3, RFC 6533 section
# 6). The limits are for the number of parts and for the bytes of that header. A report has three
# parts, and the key in an Autocrypt field has 10 KB.
RETURNED = (
    "message/rfc822",
    "text/rfc822-headers",
    "message/global",
    "message/global-headers",
)
MAX_REPORT_PARTS = 10
MAX_RETURNED_HEADER = 1 << 16

# The bytes that are searched for line ends at a time. They fit into the processor's cache.
LINE_END_STEP = 1 << 16

_ATOM = rb"[!#-'*+/-9=?A-Z^-~-]+"  # RFC 5322 section 3.2.3
_ADDRESS = rb"(?P<address%b>%b(?:\.%b)*@(?:%b(?:\.%b)*|\[[!-Z^-~]+\]))"
_COMMENT = rb"\((?:[^()\\]|\\.)*+\)"
# This repetition is not possessive. When a round of a possessive repetition fails in the middle,
# Python 3.11 goes on from the middle, and accepts a comment that never ends.
_SPACE = rb"(?:[ \t]|%b)*" % _COMMENT
# The text before <address>. Mail programs leave 8-bit text and dots unquoted.
_PHRASE = rb'(?:[^\x00-\x08\x0a-\x1f\x7f()<>\[\]:;@\\,"]|"(?:[^"\\]|\\.)*+"|%b)*' % _COMMENT
_FROM = re.compile(
    rb"%b%b%b|%b<%b>%b"
    % (
        _SPACE,
        _ADDRESS % (b"_alone", *[_ATOM] * 4),
        _SPACE,
        _PHRASE,
        _ADDRESS % (b"_angled", *[_ATOM] * 4),
        _SPACE,
    ),
    re.DOTALL,
)


def check_submission(sender: str, fields: list[Field], body: bytes) -> str:
    """Check a message that a user sends (contract, section 4). Raises Refusal.

    sender: the address in MAIL FROM, which Postfix has compared with the login.
    Returns the kind of the message: "encrypted" or "secure-join".
    """
    check_form(fields, body)
    author = from_address(fields)
    if author.lower() != sender.lower():
        raise Refusal("forged From", "500", None, f"Invalid FROM <{author}> for <{sender}>")
    if is_encrypted(fields, body, True):
        return "encrypted"
    if is_securejoin(fields, body, True):
        return "secure-join"
    raise Refusal("unencrypted", "523", None, UNENCRYPTED)


def check_incoming(
    sender: str,
    recipients: list[str],
    fields: list[Field],
    body: bytes,
    takes_cleartext: Callable[[], bool],
) -> tuple[str, str]:
    """Check a message that arrives (contract, section 5), except its DKIM signature.

    sender: the address in MAIL FROM, "" for <>.
    takes_cleartext: a function that returns whether all recipients accept unencrypted mail. It is
        called for an unencrypted message only.
    Returns the address in From, and the kind of the message: "encrypted", "secure-join", "bounce"
    or "cleartext". Raises Refusal.
    """
    check_form(fields, body)
    author = from_address(fields)
    if is_encrypted(fields, body, False):
        return author, "encrypted"
    if is_securejoin(fields, body, False):
        return author, "secure-join"
    if not sender and is_bounce(author, recipients, fields, body):
        return author, "bounce"
    if takes_cleartext():
        return author, "cleartext"
    raise Refusal("unencrypted", "523", None, UNENCRYPTED)


def check_form(fields: list[Field], body: bytes) -> None:
    """Refuse a bare CR or LF, and a second Content-Type.

    With these, two programs could read two different messages. Raises Refusal.
    """
    if has_bare_line_end(body) or any(has_bare_line_end(value) for _, value in fields):
        raise Refusal("bare line end", "554", "5.6.0", "A line must end in CR LF and nothing else")
    if len(mime.values(fields, "Content-Type")) > 1:
        raise Refusal("Content-Type twice", "554", "5.6.0", "More than one Content-Type")


def has_bare_line_end(data: bytes) -> bool:
    """Return whether the data has a CR without LF, or an LF without CR."""
    view = memoryview(data)
    start = 0
    while start < len(data):
        end = min(start + LINE_END_STEP, len(data))
        if data[end - 1] == ord("\r"):
            end += 1
        rest = bytes(view[start:end]).replace(b"\r\n", b"")
        if b"\r" in rest or b"\n" in rest:
            return True
        start = end
    return False


def from_address(fields: list[Field]) -> str:
    """Return the address in From. Raises Refusal unless one From field has exactly one address."""
    found = mime.values(fields, "From")
    match = None
    if len(found) == 1 and len(found[0]) <= MAX_FROM:
        match = _FROM.fullmatch(found[0])
    if not match:
        raise Refusal(
            "no single From", "500", None, "Invalid FROM header: it must hold exactly one address"
        )
    address = (match["address_alone"] or match["address_angled"]).decode()
    domain = address.rpartition("@")[2]
    if domain.startswith("[") and not is_address_literal(domain):
        raise Refusal("bad address literal", "500", None, f"Invalid FROM <{address}>")
    return address


def is_address_literal(domain: str) -> bool:
    """Return whether `domain` is `[1.2.3.4]` or `[IPv6:…]` (RFC 5321 section 4.1.3)."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return False
    inside = domain[1:-1]
    try:
        if inside.lower().startswith("ipv6:"):
            ipaddress.IPv6Address(inside[5:])
        else:
            ipaddress.IPv4Address(inside)
    except ValueError:
        return False
    return True


def is_encrypted(fields: list[Field], body: bytes, outgoing: bool) -> bool:
    """Return whether a message is encrypted (contract, section 6; RFC 3156 section 4).

    outgoing: the message leaves the relay. Then it must have no text around the parts and no armor
        headers.
    """
    try:
        media_type, parameters = mime.content_type(fields)
        if media_type != "multipart/encrypted":
            return False
        leaves = _read_leaves(body, parameters, 2, outgoing)
        if [media_type for media_type, _ in leaves] != [
            "application/pgp-encrypted",
            "application/octet-stream",
        ]:
            return False
        (_, version), (_, armor) = leaves
    except mime.Malformed:
        return False
    return version.strip() == b"Version: 1" and openpgp.is_encrypted_armor(armor, outgoing)


def is_securejoin(fields: list[Field], body: bytes, outgoing: bool) -> bool:
    """Return whether a message is a Secure-Join request, which cannot be encrypted yet.

    Delta Chat sends a multipart with one text part. Delta Chat 2.59 sent text/plain.
    """
    steps = mime.values(fields, "Secure-Join")
    if len(steps) != 1 or steps[0] not in SECURE_JOIN_STEPS:
        return False
    try:
        media_type, parameters = mime.content_type(fields)
        if media_type.startswith("multipart/"):
            leaves = _read_leaves(body, parameters, 1, outgoing)
        else:
            leaves = [mime.single(fields, body)] if len(body) <= MAX_SECURE_JOIN else []
    except mime.Malformed:
        return False
    if [media_type for media_type, _ in leaves] != ["text/plain"]:
        return False
    text = leaves[0][1].strip().lower()
    return text in [b"secure-join: " + step for step in SECURE_JOIN_STEPS]


def _read_leaves(
    body: bytes, parameters: dict[str, bytes], most: int, outgoing: bool
) -> list[tuple[str, bytes]]:
    """Return the media type and the content of each part of a flat multipart. Raises Malformed."""
    found, around = mime.parts(body, parameters, most)
    if outgoing and around.strip():
        raise mime.Malformed("text around the parts")
    return [mime.leaf(part) for part in found]


def is_bounce(author: str, recipients: list[str], fields: list[Field], body: bytes) -> bool:
    """Return whether a message is another server's report about a delivery (RFC 3464 section 2).

    Such a report is never encrypted. Reports of other types, such as read receipts, do not count.
    A report returns the header of the message that failed. The author in that header must be a
    recipient of the report, because our users' From is their envelope sender.
    """
    if not any(mime.values(fields, "Auto-Submitted")):
        return False
    if not author.lower().startswith("mailer-daemon@"):
        return False
    try:
        media_type, parameters = mime.content_type(fields)
    except mime.Malformed:
        return False
    kind = parameters.get("report-type", b"").lower()
    if media_type != "multipart/report" or kind != b"delivery-status":
        return False
    own = {recipient.lower() for recipient in recipients}
    return own.issuperset(_find_returned_authors(body, parameters))


def _find_returned_authors(body: bytes, parameters: dict[str, bytes]) -> list[str]:
    """Return the addresses in the From fields of the messages that a report returns.

    The addresses are in lower case. A report may return no message (RFC 6522 section 3). A part may
    be cut off; a part that cannot be read is left out.
    """
    try:
        found, _ = mime.parts(body, parameters, MAX_REPORT_PARTS)
    except mime.Malformed:
        return []
    authors = []
    for part in found:
        try:
            fields, content = mime.divided(part)
            if mime.content_type(fields)[0] in RETURNED:
                header = bytes(content[:MAX_RETURNED_HEADER]).partition(b"\r\n\r\n")[0]
                returned = mime.parse_fields(header.removesuffix(b"\r\n"))
                authors.append(from_address(returned).lower())
        except (mime.Malformed, Refusal):
            continue
    return authors


# The change of one field: its name, its number among the fields of this name (from 1), and its new
# value, or None to remove it.
Change = tuple[bytes, int, bytes | None]


def clean_fields(fields: list[Field]) -> tuple[list[Field], list[Change]]:
    """Remove the fields that reveal the sender's client, and replace the subject.

    Section 4 of the contract lists these fields. Returns the new fields, and the changes in the
    order in which to make them. The last field of a name comes first, so that its removal does not
    change the numbers of the others.
    """
    kept: list[Field] = []
    changes: list[Change] = []
    seen: dict[bytes, int] = {}
    for name, value in fields:
        key = name.lower()
        seen[key] = seen.get(key, 0) + 1
        if key in REMOVED_FIELDS or (key == b"subject" and seen[key] > 1):
            changes.append((name, seen[key], None))
        elif key == b"subject":
            changes.append((name, 1, SUBJECT))
            kept.append((name, SUBJECT))
        else:
            kept.append((name, value))
    return kept, changes[::-1]
