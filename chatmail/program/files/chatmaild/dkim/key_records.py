"""The TXT records of the keys (RFC 6376 section 3.6.1, RFC 8463 section 4.2)."""

import base64

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from chatmaild.dkim.key_files import load_key
from chatmaild.dkim.signing_state import days_since, read_state

TTL = 3600
# RFC 1035 section 3.3: a character-string of a TXT record holds 255 bytes.
CHUNK = 255


def _make_value(key):
    """Return the TXT value of a private key's public key (RFC 6376 3.6.1, RFC 8463 4.2)."""
    if isinstance(key, rsa.RSAPrivateKey):
        kind, encoding = "rsa", serialization.Encoding.DER
        form = serialization.PublicFormat.SubjectPublicKeyInfo
    else:
        kind, encoding = "ed25519", serialization.Encoding.Raw
        form = serialization.PublicFormat.Raw
    octets = key.public_key().public_bytes(encoding, form)
    # s=email: the key is only for mail. t=s: it is not for addresses of subdomains.
    return f"v=DKIM1;k={kind};s=email;t=s;p={base64.b64encode(octets).decode()}"


def name_record(selector, domain):
    """Return the DNS name of a key's record."""
    return f"{selector}._domainkey.{domain}."


def make_record(selector, domain):
    """Return the record of a key: {"name", "type", "ttl", "value"}."""
    return {
        "name": name_record(selector, domain),
        "type": "TXT",
        "ttl": TTL,
        "value": _make_value(load_key(selector)),
    }


def describe_record(settings, selector):
    """Return the TXT record of a key: {"name", "value", "chunks"}.

    value: the record's value as one text. chunks: the same value as strings of at most 255 bytes,
    as a zone file needs them.
    """
    record = make_record(selector, settings["mail_domain"])
    value = record["value"]
    chunks = [value[start : start + CHUNK] for start in range(0, len(value), CHUNK)]
    return {"name": record["name"], "value": value, "chunks": chunks}


def list_records(settings):
    """Return the TXT records that DNS must have, for the next, the signing and the retired keys.

    Returns a list of {"name", "type", "ttl" in seconds, "value"}. The value is one text.
    A key that was retired `dkim:retire_after` days ago needs no record. On a relay without a domain
    the list is empty.
    """
    state = read_state()
    if not settings["dkim_required"]:
        return []
    wanted = state["selectors"] + state["next"] + _find_in_grace(settings, state)
    return [make_record(key["selector"], settings["mail_domain"]) for key in wanted]


def _find_in_grace(settings, state):
    """Return the retired keys whose signatures may be on messages that are still on their way."""
    return [
        key
        for key in state["retired"]
        if days_since(key["since"]) < settings["dkim"]["retire_after"]
    ]


def list_withdrawn(settings):
    """Return the names of the records that DNS should not have any more.

    They are the records of keys that were retired `dkim:retire_after` days ago or earlier.
    """
    state = read_state()
    if not settings["dkim_required"]:
        return []
    kept = _find_in_grace(settings, state)
    return [
        name_record(key["selector"], settings["mail_domain"])
        for key in state["retired"]
        if key not in kept
    ]
