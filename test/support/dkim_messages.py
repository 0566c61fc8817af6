"""Messages with DKIM signatures from our code, from dkimpy, and made by hand."""

import base64

import dkim
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import canonical, signing, verifying
from cryptography.hazmat.primitives import serialization
from support import messages

DOMAIN = "chat.example.org"
NONE = "554 No DKIM signature found"
INVALID = "554 No valid DKIM signature found"
TEMPORARY = "451 DKIM key lookup failed, try again later"


def raw(fields, body: bytes) -> bytes:
    return b"".join(b"%b:%b\r\n" % field for field in fields) + b"\r\n" + body


def signed(keys, fields=None, body=b"Hello\r\n"):
    """Return the fields of a message with our signatures on top."""
    fields = messages.fields() if fields is None else fields
    values = signing.signature_fields(fields, body, DOMAIN, signing.load_keys(keys[0]))
    return [*((b"DKIM-Signature", value) for value in values), *fields]


def check(fields, body, records, domain=DOMAIN) -> str:
    """Verify a message. Return the refusal, "" for none. A record None makes DNS time out."""

    def lookup(name, seconds):
        assert 0 < seconds <= verifying.DNS_SECONDS
        record = records.get(name.partition("._domainkey.")[0])
        if name in records or record is None:
            raise verifying.LookupFailed("time-out")
        return [record.encode()] if isinstance(record, str) else record

    try:
        verifying.check_signatures(fields, body, domain, lookup)
    except Refusal as refusal:
        return f"{refusal.code} {refusal.text}"
    return ""


BODIES = {
    "text": b"Hello\r\n",
    "empty": b"",
    "empty lines": b"\r\n\r\n\r\n",
    "no line end": b"Hello",
    "empty lines at the end": b"Hello\r\n\r\n\r\n",
    "white space everywhere": b" \t Hello \t  world\t\r\n \r\n\t\r\nend \t\r\n",
    "white space at the end": b"Hello\r\n \t \r\n   \r\n",
    "a line of spaces": b"Hello" + b" " * 5000 + b"world\r\n",
    "8-bit": bytes(range(256)).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n",
    "encrypted": messages.encrypted_body(),
}


def private_pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def record(key, form=serialization.PublicFormat.SubjectPublicKeyInfo) -> str:
    public = key.public_key().public_bytes(serialization.Encoding.DER, form)
    return f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"


def by_dkimpy(key, body=b"Hello\r\n", form=(b"relaxed", b"simple"), domain=DOMAIN, **options):
    """Return the fields of a message that dkimpy has signed."""
    fields = messages.fields()
    value = dkim.sign(
        raw(fields, body), b"other", domain.encode(), key[0], canonicalize=form, **options
    )
    return [(b"DKIM-Signature", value.partition(b":")[2].removesuffix(b"\r\n")), *fields]


def own_signature(key: signing.SigningKey, changes: dict[str, str | None], body=b"Hello\r\n"):
    """Return a message's fields with a signature that is valid but for its changed tags."""
    fields = messages.fields()
    digest, _ = canonical.body_hash(body, True)
    tags = {
        "v": "1", "a": key.algorithm, "c": "relaxed/relaxed", "d": DOMAIN, "s": key.selector,
        "h": "from:to:subject", "bh": base64.b64encode(digest).decode(),
    }  # fmt: skip
    tags = {name: value for name, value in (tags | changes).items() if value is not None}
    unsigned = ("".join(f" {name}={value};" for name, value in tags.items()) + " b=").encode()
    names = [name.strip().lower().encode() for name in tags.get("h", "").split(":")]
    data = canonical.signed_bytes(fields, names, (b"DKIM-Signature", unsigned), True)
    return [(b"DKIM-Signature", unsigned + base64.b64encode(key.sign(data))), *fields]
