"""The content of certificates."""

import datetime
import hashlib
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from chatmaild.common.errors import OperatorError


def read_pair(certificate, key):
    """Check that a server could use a certificate with its key; return the certificate's content.

    certificate, key: paths of PEM files. The chain follows the certificate in its file.
    Returns a dictionary: `names` (sorted), `not_before` and `not_after` (UTC, ISO 8601) and
    `days_left`. Raises OperatorError when a file is missing or unreadable, or when the files do not
    match.
    """
    for path in (certificate, key):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise OperatorError(f"{path} cannot be read: {error.strerror}") from None
    try:
        # Without `password`, OpenSSL would ask on the terminal for the passphrase of a key. The
        # empty passphrase makes it fail instead.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        found = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
    except (ssl.SSLError, ValueError, OSError) as error:
        raise OperatorError(_describe_unusable(certificate, key, error)) from None
    return _summarize(found)


def _describe_unusable(certificate, key, error):
    """Return the error text for a pair that OpenSSL refused."""
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"{certificate} and {key} do not belong together: the key is another certificate's"
    return (
        f"{certificate} and {key} cannot be used: expected a PEM certificate, followed by its "
        f"authority's certificates, and its PEM key without a passphrase; OpenSSL says: {error}"
    )


def read_certificate(path):
    """Return the content of the first certificate in a PEM file, None when the file does not exist.

    A dictionary: `names` (DNS names and IP addresses, sorted), `subject`, `issuer`, `not_before`
    and `not_after` (UTC, ISO 8601), `days_left`, `self_signed`, and `key_sha256`, the digest of
    the public key (SubjectPublicKeyInfo, RFC 5280). Raises OperatorError when the file holds no
    certificate.
    """
    try:
        found = x509.load_pem_x509_certificate(Path(path).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path}: expected a PEM certificate, found: {error}") from None
    return {
        **_summarize(found),
        "subject": found.subject.rfc4514_string(),
        "issuer": found.issuer.rfc4514_string(),
        "self_signed": _is_self_signed(found),
        "key_sha256": digest_key(found.public_key()),
    }


def _summarize(found):
    """Return the names and times of a certificate."""
    # The cryptography package of Debian 12 lacks the two properties that end in `_utc`. Later
    # versions have them and warn about the other two.
    start = getattr(found, "not_valid_before_utc", None)
    start = start or found.not_valid_before.replace(tzinfo=datetime.UTC)
    end = getattr(found, "not_valid_after_utc", None)
    end = end or found.not_valid_after.replace(tzinfo=datetime.UTC)
    return {
        "names": _find_names(found),
        "not_before": start.isoformat(),
        "not_after": end.isoformat(),
        "days_left": (end - datetime.datetime.now(datetime.UTC)).days,
    }


def _find_names(found):
    """Return the DNS names and IP addresses of a certificate, sorted."""
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return sorted(
        names.get_values_for_type(x509.DNSName)
        + [str(each) for each in names.get_values_for_type(x509.IPAddress)]
    )


def _is_self_signed(found):
    """Return whether a certificate's own key signed it."""
    key, signature = found.public_key(), found.signature
    data, algorithm = found.tbs_certificate_bytes, found.signature_hash_algorithm
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(algorithm))
        else:
            key.verify(signature, data)
    except (AttributeError, TypeError, ValueError, InvalidSignature):
        # The signature is of another kind than the key, or the key is of a kind that cannot sign.
        return False
    return found.issuer == found.subject


def digest_key(public_key):
    """Return the SHA-256 of a public key, in hexadecimal."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(public_key.public_bytes(serialization.Encoding.DER, form)).hexdigest()
