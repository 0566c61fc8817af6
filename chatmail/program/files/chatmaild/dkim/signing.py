"""DKIM signatures (RFC 6376, RFC 8463) on messages that leave the relay."""

import base64
import json
import logging
import time
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from chatmaild.dkim.canonical import body_hash, signed_bytes
from chatmaild.message.mime import Field

log = logging.getLogger(__name__)

KEYS = Path("/etc/chatmail/dkim")

# Each of these names is in h= once more than the message has fields of that name, so that nobody
# can add a field (RFC 6376 section 8.15).
# The List fields are those of RFC 2369, RFC 2919 and RFC 8058.
OVERSIGNED = (
    b"from subject date to cc reply-to in-reply-to references autocrypt content-type message-id "
    b"list-id list-help list-unsubscribe list-unsubscribe-post list-subscribe list-post "
    b"list-owner list-archive"
).split()

_KEY_TYPES = {"rsa-sha256": rsa.RSAPrivateKey, "ed25519-sha256": ed25519.Ed25519PrivateKey}


class SigningKey(NamedTuple):
    """A key that signs now."""

    selector: str
    algorithm: str  # a= of the signature
    private_key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

    def sign(self, data: bytes) -> bytes:
        """Return the signature over the SHA-256 of `data` (RFC 8463 section 3 for Ed25519)."""
        if self.algorithm == "rsa-sha256":
            return self.private_key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        digest = hashes.Hash(hashes.SHA256())
        digest.update(data)
        return self.private_key.sign(digest.finalize())


def load_keys(directory: Path = KEYS) -> list[SigningKey]:
    """Return the keys that `signing.json` names, in the same order.

    Raises OSError or ValueError. The text names the bad file.
    """
    listed = json.loads((directory / "signing.json").read_text())["selectors"]
    keys = []
    for entry in listed:
        selector, algorithm = entry["selector"], entry["algorithm"]
        path = directory / f"{selector}.pem"
        private_key = load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(private_key, _KEY_TYPES.get(algorithm, ())):
            raise ValueError(f"{path} holds no key for {algorithm}: correct signing.json")
        keys.append(SigningKey(selector, algorithm, private_key))
    if not keys:
        raise ValueError(f"{directory / 'signing.json'} names no selector: at least one must sign")
    return keys


class KeyRing:
    """The keys that sign now. They are read again when `signing.json` has changed."""

    def __init__(self, directory: Path = KEYS):
        """Load the keys. Raises OSError or ValueError."""
        self._directory = directory
        self._seen = self._state()
        self._keys = load_keys(directory)

    def _state(self) -> tuple[int, int]:
        stat = (self._directory / "signing.json").stat()
        return stat.st_mtime_ns, stat.st_ino

    def current(self) -> list[SigningKey]:
        """Return the keys. While the files are wrong, these are the last good keys."""
        try:
            state = self._state()
            if state != self._seen:
                self._keys = load_keys(self._directory)
                self._seen = state
                log.info("signing with %s", ", ".join(key.selector for key in self._keys))
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("DKIM keys not reloaded, signing with the previous ones: %s", error)
        return self._keys


def signature_fields(
    fields: list[Field], body: bytes, domain: str, keys: list[SigningKey]
) -> list[bytes]:
    """Return the values of the DKIM-Signature fields, one for each key.

    fields, body: the message as it leaves the relay. domain: the value of d=.
    The fields belong above all other fields.
    """
    digest, _ = body_hash(body, relaxed=True)
    present = [name.lower() for name, _ in fields]
    signed = [name for name in OVERSIGNED for _ in range(present.count(name) + 1)]
    made_at = int(time.time())
    return [_signature_field(fields, digest, signed, domain, key, made_at) for key in keys]


def _signature_field(
    fields: list[Field],
    body_digest: bytes,
    signed: list[bytes],
    domain: str,
    key: SigningKey,
    made_at: int,
) -> bytes:
    """Return the value of one DKIM-Signature field, folded into lines of at most 78 bytes."""
    unsigned = (
        f" v=1; a={key.algorithm}; c=relaxed/relaxed; d={domain};\r\n"
        f"\ts={key.selector}; t={made_at};\r\n"
        f"\th={_fold([name.decode() for name in signed], ':')};\r\n"
        f"\tbh={base64.b64encode(body_digest).decode()};\r\n"
        "\tb="
    ).encode()
    data = signed_bytes(fields, signed, (b"DKIM-Signature", unsigned), relaxed=True)
    signature = base64.b64encode(key.sign(data)).decode()
    pieces = [signature[start : start + 70] for start in range(0, len(signature), 70)]
    return unsigned + "\r\n\t".join(pieces).encode()


def _fold(words: list[str], separator: str) -> str:
    """Join the words. A new line begins before a line gets longer than 76 bytes."""
    lines = [""]
    for word in words[:-1]:
        word += separator
        if len(lines[-1]) + len(word) > 70:
            lines.append("")
        lines[-1] += word
    lines[-1] += words[-1]
    return "\r\n\t ".join(lines)
