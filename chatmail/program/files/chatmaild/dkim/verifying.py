"""DKIM signatures (RFC 6376, RFC 8301, RFC 8463) on messages that arrive."""

import binascii
import contextlib
import hashlib
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import dns.exception
import dns.resolver
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from chatmaild.common.refusals import Refusal
from chatmaild.dkim.canonical import body_hash, parse_tags, signed_bytes
from chatmaild.message.mime import Field

# The number of signatures of the author's domain that are verified. A relay writes two.
MAX_SIGNATURES = 5
# Limits: bytes of a signature field, names in its h=, TXT records at the name of its key.
MAX_SIGNATURE_FIELD = 8192
MAX_SIGNED_NAMES = 200
MAX_KEY_RECORDS = 3
# Seconds for all DNS lookups of one message. Postfix waits much longer for the milter (300 s).
DNS_SECONDS = 20.0
# Key records that each process of the filter keeps, of 2 to 4 KB each.
MAX_CACHED = 500
# The lower limit is that of RFC 8301 section 3.2. Above the upper limit verifying takes too long.
MIN_RSA_BITS, MAX_RSA_BITS = 1024, 8192
_DNS_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.IGNORECASE)
MAX_DNS_NAME = 253
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")
# The seconds by which the clock of another server may be ahead.
CLOCK_SKEW = 3600

# The arguments of Refusal.
NO_SIGNATURE = "no DKIM signature", "554", "5.7.1", "No DKIM signature found"
NO_VALID_SIGNATURE = "no valid DKIM signature", "554", "5.7.1", "No valid DKIM signature found"
NO_ANSWER = "DKIM key lookup failed", "451", "4.7.1", "DKIM key lookup failed, try again later"


class LookupFailed(Exception):
    """DNS gave no answer: neither a record nor the answer that no record exists."""


# A function of a DNS name and the seconds to wait. It returns the TXT records, an empty list
# without any, or raises LookupFailed.
Lookup = Callable[[str, float], list[bytes]]


class Invalid(ValueError):
    """A signature or a key is not acceptable. The text is the reason."""


class Signature(NamedTuple):
    """A well-formed DKIM-Signature field."""

    field: Field
    tags: dict[str, bytes]
    domain: str
    key_name: str  # the DNS name of the key
    length: int | None  # the value of l=
    names: list[bytes]  # the names in h=, in lower case
    relaxed_header: bool
    relaxed_body: bool


def resolver_lookup() -> Lookup:
    """Return a Lookup that asks the servers in /etc/resolv.conf."""
    resolver = dns.resolver.Resolver()
    # Answers are kept for the seconds that unbound names, so they are no older than unbound's own.
    resolver.cache = dns.resolver.LRUCache(MAX_CACHED)

    def lookup(name: str, seconds: float) -> list[bytes]:
        try:
            answer = resolver.resolve(name, "TXT", lifetime=seconds, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except dns.exception.DNSException as error:
            raise LookupFailed(type(error).__name__) from None
        return [b"".join(record.strings) for record in answer]

    return lookup


def check_signatures(
    fields: list[Field],
    body: bytes,
    domain: str,
    lookup: Lookup,
    hashed: Callable[[], None] = lambda: None,
) -> None:
    """Refuse a message without a valid signature whose d= is `domain`.

    domain: the domain of the address in From.
    hashed: a function that is called as soon as the body is not needed any more, before DNS.
    Raises Refusal, with a temporary reply when DNS did not answer.
    """
    found = [field for field in fields if field[0].lower() == b"dkim-signature"]
    if not found:
        raise Refusal(*NO_SIGNATURE)
    signatures = _find_agreeing(_find_aligned(found, domain.lower())[:MAX_SIGNATURES], body)
    hashed()
    deadline = time.monotonic() + DNS_SECONDS
    unanswered = False
    for signature in signatures:
        try:
            _check_header(signature, fields, lookup, deadline)
        except Invalid:
            continue
        except LookupFailed:
            unanswered = True
            continue
        return
    raise Refusal(*(NO_ANSWER if unanswered else NO_VALID_SIGNATURE))


def _find_agreeing(signatures: list[Signature], body: bytes) -> list[Signature]:
    """Return the signatures whose hash matches the body."""
    hashes_of_body: dict[bool, tuple[bytes, int]] = {}
    agreeing = []
    for signature in signatures:
        relaxed = signature.relaxed_body
        if relaxed not in hashes_of_body:
            hashes_of_body[relaxed] = body_hash(body, relaxed)
        with contextlib.suppress(Invalid):
            _check_body(signature, *hashes_of_body[relaxed])
            agreeing.append(signature)
    return agreeing


def _find_aligned(found: list[Field], domain: str) -> list[Signature]:
    """Return the well-formed signatures of `domain`."""
    signatures = []
    for field in found:
        try:
            signature = parse_signature(field)
        except (Invalid, ValueError):
            continue
        if signature.domain == domain:
            signatures.append(signature)
    return signatures


def parse_signature(field: Field) -> Signature:
    """Parse a DKIM-Signature field; check its form and times (RFC 6376 sections 3.5, 6.1.1).

    Raises ValueError, of which Invalid is a subclass.
    """
    if len(field[1]) > MAX_SIGNATURE_FIELD:
        raise Invalid("the signature field is too large")
    tags = parse_tags(field[1])
    missing = [tag for tag in ("v", "a", "b", "bh", "d", "h", "s") if not tags.get(tag)]
    if missing or tags["v"] != b"1" or tags.get("q", b"dns/txt") != b"dns/txt":
        raise Invalid(f"tags {missing} are missing, or v= is not 1, or q= is not dns/txt")
    if tags["a"] not in (b"rsa-sha256", b"ed25519-sha256"):
        raise Invalid("an algorithm that RFC 8301 section 3.1 forbids")
    header, _, content = tags.get("c", b"simple").partition(b"/")
    content = content or b"simple"
    if not {header, content} <= {b"simple", b"relaxed"}:
        raise Invalid("unknown canonicalization")
    names = [name.strip().lower() for name in tags["h"].split(b":")]
    if b"from" not in names or len(names) > MAX_SIGNED_NAMES:
        raise Invalid("h= lacks From, or has too many names")
    now = time.time()
    if int(tags.get("x", b"%d" % now)) < int(now) or int(tags.get("t", b"0")) > now + CLOCK_SKEW:
        raise Invalid("the signature is expired, or from the future")
    domain = tags["d"].decode("ascii").lower()
    selector = tags["s"].decode("ascii")
    key_name = f"{selector}._domainkey.{domain}"
    if not _DNS_NAME.fullmatch(key_name) or len(key_name) > MAX_DNS_NAME:
        raise Invalid("s= and d= do not make a DNS name")
    identity = tags.get("i", b"@" + tags["d"]).decode("ascii").lower().rpartition("@")[2]
    if identity != domain and not identity.endswith("." + domain):
        raise Invalid("i= is not within d=")
    return Signature(
        field=field,
        tags=tags,
        domain=domain,
        key_name=key_name + ".",
        length=int(tags["l"]) if "l" in tags else None,
        names=names,
        relaxed_header=header == b"relaxed",
        relaxed_body=content == b"relaxed",
    )


def _check_body(signature: Signature, digest: bytes, length: int) -> None:
    """Compare the hash of the body. Raises Invalid.

    With a signature over a part of the body (l=), anybody could add text. Such a signature is
    invalid here.
    """
    if signature.length not in (None, length):
        raise Invalid("the signature does not cover the whole body")
    if _decode_base64(signature.tags["bh"]) != digest:
        raise Invalid("the body was changed")


def _check_header(
    signature: Signature, fields: list[Field], lookup: Lookup, deadline: float
) -> None:
    """Verify the signature with a key of its selector. Raises Invalid or LookupFailed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise LookupFailed("no time left")
    records = lookup(signature.key_name, seconds)
    data = signed_bytes(fields, signature.names, signature.field, signature.relaxed_header)
    value = _decode_base64(signature.tags["b"])
    for record in records[:MAX_KEY_RECORDS]:
        try:
            return _verify(parse_key(record, signature), value, data)
        except (ValueError, InvalidSignature, UnsupportedAlgorithm):
            continue
    raise Invalid("no key of the selector verifies the signature")


def parse_key(record: bytes, signature: Signature) -> rsa.RSAPublicKey | ed25519.Ed25519PublicKey:
    """Return the key in a DKIM key record (RFC 6376 section 3.6.1) that may verify `signature`.

    Raises ValueError, of which Invalid is a subclass, or UnsupportedAlgorithm.
    """
    tags = _parse_key_tags(record)
    kind = tags.get("k", b"rsa")
    if tags.get("v", b"DKIM1") != b"DKIM1" or signature.tags["a"] != kind + b"-sha256":
        raise Invalid("a record of another version or algorithm")
    if b"sha256" not in _split_list(tags.get("h", b"sha256")):
        raise Invalid("the key is not for SHA-256")
    if not {b"*", b"email"} & set(_split_list(tags.get("s", b"*"))):
        raise Invalid("the key is not for mail")
    identity = signature.tags.get("i", b"@" + signature.tags["d"]).rpartition(b"@")[2]
    if b"s" in _split_list(tags.get("t", b"")) and identity.decode().lower() != signature.domain:
        raise Invalid("the key is not for subdomains")
    material = _decode_key(tags.get("p", b""))
    if not material:
        raise Invalid("the key is revoked")
    if kind == b"ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(material)
    key = load_der_public_key(material)
    if not isinstance(key, rsa.RSAPublicKey) or not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise Invalid("the key is no RSA key, or is too short or too long")
    return key


def _parse_key_tags(record: bytes) -> dict[str, bytes]:
    """Return the tags of a key record. Raises ValueError.

    Many operators copied their record from a zone file into a web form. Such a record has quotes,
    parentheses, a backslash before each semicolon (RFC 1035 section 5.1), or two semicolons. Other
    verifiers accept such records. This is safe, because only the domain's owner can write a record.
    """
    specs = record.translate(None, b'"\\()').split(b";")
    return parse_tags(b";".join(spec for spec in specs if spec.strip()))


def _decode_key(value: bytes) -> bytes:
    """Decode p=. Characters that base64 does not have are left out (RFC 2045 section 6.8).

    Raises Invalid.
    """
    text = _NOT_BASE64.sub(b"", value)
    return _decode_base64(text + b"=" * (-len(text) % 4))


def _verify(key: rsa.RSAPublicKey | ed25519.Ed25519PublicKey, value: bytes, data: bytes) -> None:
    """Raise InvalidSignature unless `value` is the key's signature of `data`."""
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(value, data, padding.PKCS1v15(), hashes.SHA256())
    else:
        key.verify(value, hashlib.sha256(data).digest())


def _split_list(value: bytes) -> list[bytes]:
    return [item.strip() for item in value.split(b":")]


def _decode_base64(value: bytes) -> bytes:
    """Decode base64, which may contain spaces where the field was folded. Raises Invalid."""
    try:
        return binascii.a2b_base64(value.replace(b" ", b""), strict_mode=True)
    except binascii.Error:
        raise Invalid("not base64") from None
