"""A self-signed certificate: the relay's own, or a placeholder until another one exists."""

import contextlib
import datetime
import grp
import ipaddress
import os
import pwd
import stat

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from chatmaild.certificate.installing import locked
from chatmaild.certificate.summary import digest_key, read_certificate, read_pair
from chatmaild.common import atomic_files
from chatmaild.common.errors import OperatorError

KEY_MODE, CERTIFICATE_MODE = 0o640, 0o644
# RFC 5280 appendix A.1, ub-common-name.
MAX_COMMON_NAME = 64
# Days.
VALIDITY = 3650


def ensure(name, key, subject_names, group, days, days_remaining, placeholder, test):
    """Ensure that a certificate for these names and its private key exist.

    The arguments are those of the state `chatmail_certificate.self_signed`. With `test`, nothing is
    written.
    Returns {"reason", "changes", "left"}: why a new certificate is due (": reason" or ""), the
    changes with their old and new values, and the names of changes that had no effect.
    """
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    wanted = {"names": sorted(subject_names), "not_after": end.date().isoformat()}
    acceptable = {
        "names": sorted(subject_names),
        "days": days_remaining,
        "placeholder": placeholder,
    }
    directory, left = os.path.dirname(name), []
    # Amid a swap, the certificate of one pair would be compared with the key of another. A dry run
    # may come before the directory.
    with locked(directory) if os.path.isdir(directory) else contextlib.nullcontext():
        reason, changes = _compare(name, key, group, wanted, acceptable)
        if changes and not test:
            _write_pair(name, key, group, subject_names, end, changes)
            left = list(_compare(name, key, group, wanted, acceptable)[1])
    return {"reason": reason, "changes": changes, "left": left}


def make_pair(directory, names, days=VALIDITY):
    """Make a key and a self-signed certificate for it in a directory; return their paths.

    names: DNS names or IP addresses, the first is the subject. days: validity. Raises OSError.
    """
    paths = [os.path.join(directory, name) for name in ("fullchain.pem", "privkey.pem")]
    private_key = ec.generate_private_key(ec.SECP256R1())
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    _write_file(paths[1], _encode_key(private_key), KEY_MODE, 0)
    _write_file(paths[0], _issue_certificate(private_key, names, end), CERTIFICATE_MODE, 0)
    return paths


def _compare(name, key, group, wanted, acceptable):
    """Return why a new certificate is due (": reason" or ""), and the changes: old and new."""
    changes, reason = {}, ""
    if not (acceptable["placeholder"] and _is_usable(name, key)):
        private_key = _load_key(key)
        if private_key is None:
            old = "unusable" if os.path.lexists(key) else None
            changes["key"] = {"old": old, "new": "EC P-256"}
        present = _read_present(name)
        reason = _find_fault(present, private_key, acceptable)
        if reason:
            old = present and {
                "names": present["names"],
                "not_after": present["not_after"][: len("2026-01-01")],
            }
            changes["certificate"] = {"old": old, "new": wanted}
    for label, path, owner, mode in (
        ("key access", key, f"root:{group}", KEY_MODE),
        ("certificate access", name, "root:root", CERTIFICATE_MODE),
    ):
        found, right = _describe_access(path), f"{owner} {mode:04o}"
        if found != right:
            changes[label] = {"old": found, "new": right}
    return (f": {reason}" if reason else ""), changes


def _is_usable(name, key):
    """Return whether a daemon could use this pair. The key may be of any kind."""
    try:
        read_pair(name, key)
    except OperatorError:
        return False
    return True


def _read_present(name):
    """Return the content of the certificate, None without a readable one."""
    try:
        return read_certificate(name)
    except OperatorError:
        return None


def _find_fault(present, private_key, acceptable):
    """Return what is wrong with the certificate, "" if it is good."""
    if present is None:
        return "no readable one exists"
    if private_key is None or present["key_sha256"] != digest_key(private_key.public_key()):
        return "it does not belong to the key"
    if acceptable["placeholder"]:
        return ""
    if present["names"] != acceptable["names"]:
        return "it is for other names"
    if not present["self_signed"]:
        return "it is not self-signed"
    if present["days_left"] < acceptable["days"]:
        return f"it expires in {present['days_left']} days"
    return ""


def _write_pair(name, key, group, names, end, changes):
    """Write the parts that `changes` names.

    The key is written first, because a certificate can be made for an existing key at any time.
    """
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise OperatorError(f"group {group} does not exist") from None
    private_key = _load_key(key)
    if "key" in changes:
        private_key = ec.generate_private_key(ec.SECP256R1())
        _write_file(key, _encode_key(private_key), KEY_MODE, gid)
    if "certificate" in changes:
        _write_file(name, _issue_certificate(private_key, names, end), CERTIFICATE_MODE, 0)
    for path, owner, mode in ((key, gid, KEY_MODE), (name, 0, CERTIFICATE_MODE)):
        os.chown(path, 0, owner)
        os.chmod(path, mode)


def _load_key(path):
    """Return the private key in a file, None without a key of a good kind and size."""
    try:
        with open(path, "rb") as stream:
            key = serialization.load_pem_private_key(stream.read(), password=None)
    except (OSError, ValueError, TypeError):  # A key with a passphrase raises TypeError.
        return None
    good = isinstance(key, ec.EllipticCurvePrivateKey)
    good = good or (isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048)
    return key if good else None


def _encode_key(private_key):
    return private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _issue_certificate(private_key, names, end):
    """Return a self-signed end-entity certificate (RFC 5280) for the names, in PEM form."""
    common_name = names[0] if len(names[0]) <= MAX_COMMON_NAME else "chatmail"
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        # It begins a day ago, for clients whose clocks are slow.
        .not_valid_before(datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1))
        .not_valid_after(end)
    )
    extended = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])
    for extension, critical in (
        (x509.SubjectAlternativeName([_make_general_name(each) for each in names]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (extended, False),
        (x509.SubjectKeyIdentifier.from_public_key(private_key.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical)
    return builder.sign(private_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _make_general_name(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_file(path, content, mode, gid):
    """Replace a file in one step, so that a power failure leaves the old file or the new file."""
    # The path may be a link (see installing.install). The link stays, and its target is replaced.
    path = os.path.realpath(path)
    atomic_files.replace(path, content, mode=mode, owner=(0, gid), durable=True)


def _describe_access(path):
    """Return owner, group and mode of a file, such as "root:root 0640", None without the file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (
        f"{_find_name(pwd.getpwuid, found.st_uid)}:{_find_name(grp.getgrgid, found.st_gid)} "
        f"{stat.S_IMODE(found.st_mode):04o}"
    )


def _find_name(look_up, number):
    """Return the name of a user or group, or its number when it has no name."""
    try:
        return look_up(number)[0]
    except KeyError:
        return str(number)
