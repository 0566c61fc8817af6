"""The certificate of a relay: self-signed, of an ACME authority, or the operator's own.

A self-signed one is for good, or until another one takes its place.
"""

import contextlib
import datetime
import grp
import hashlib
import ipaddress
import os
import pwd
import stat
import tempfile

from salt.exceptions import CommandExecutionError

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    HAS_CRYPTOGRAPHY = True
except ImportError:
    HAS_CRYPTOGRAPHY = False

__virtualname__ = "chatmail_certificate"

UTC = datetime.timezone.utc  # noqa: UP017  Salt's own Python may be 3.10, which has no datetime.UTC
KEY_MODE, CERTIFICATE_MODE = 0o640, 0o644
# RFC 5280 appendix A.1, ub-common-name.
MAX_COMMON_NAME = 64


def __virtual__():
    if not HAS_CRYPTOGRAPHY:
        return False, "chatmail_certificate: `cryptography` is not in Salt's Python"
    return __virtualname__


def self_signed(
    name, key, subject_names, group="root", days=3650, days_remaining=30, placeholder=False
):
    """Ensure that a certificate for these names and its private key are there.

    name: path of the certificate (PEM, 0644 root:root).
    key: path of the private key (PKCS#8 PEM, 0640 root:<group>). A usable one (RSA of 2048 bits
        or more, or EC) is kept, otherwise a new one for P-256 is made.
    subject_names: DNS names or IP addresses, the first is the subject.
    days: validity of a new certificate. days_remaining: when fewer are left, it is renewed.
    placeholder: keep whatever certificate belongs to the key, such as one that a CA issued.

    Only the certificate is replaced as a rule, in one step and for the same key. So at no moment
    do a certificate and a key lie there which do not belong together, wherever a run is cut off.
    Both directories must exist. The key is never shown.

    .. code-block:: yaml

        self-signed certificate:
          chatmail_certificate.self_signed:
            - name: /etc/chatmail/tls/fullchain.pem
            - key: /etc/chatmail/tls/privkey.pem
            - subject_names: [_chat.example.org, www._chat.example.org]
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "The certificate is as wanted"}
    end = datetime.datetime.now(UTC) + datetime.timedelta(days=days)
    wanted = {"names": sorted(subject_names), "not_after": end.date().isoformat()}
    acceptable = {
        "names": sorted(subject_names),
        "days": days_remaining,
        "placeholder": placeholder,
    }
    try:
        reason, changes = _compare(name, key, group, wanted, acceptable)
        if not changes:
            return ret
        ret["changes"] = changes
        if __opts__["test"]:
            ret["result"] = None
            ret["comment"] = f"The certificate would be set right{reason}"
            return ret
        _converge(name, key, group, subject_names, end, changes)
        left = _compare(name, key, group, wanted, acceptable)[1]
    except (OSError, ValueError, CommandExecutionError) as error:
        ret.update(result=False, changes={}, comment=f"{name}: {error}")
        return ret
    if left:
        ret["result"] = False
        ret["comment"] = f"The certificate was written, but still differs in: {', '.join(left)}"
    else:
        ret["comment"] = f"The certificate was set right{reason}"
    return ret


def acme_account(name, settings):
    """Ensure that this machine has an account with the ACME authority.

    name: URL of the authority's directory. settings: the relay's settings.
    It comes before the certificate, because a CAA record may name the account (RFC 8657).

    .. code-block:: yaml

        account with the authority:
          chatmail_certificate.acme_account:
            - name: https://acme-v02.api.letsencrypt.org/directory
            - settings: {{ relay | json }}
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "There is an account"}
    if __salt__["chatmail_certificate.has_account"](settings):
        return ret
    ret["changes"] = {"account": {"old": None, "new": name}}
    if __opts__["test"]:
        ret.update(result=None, comment="An account would be made")
        return ret
    try:
        __salt__["chatmail_certificate.register"](settings)
    except CommandExecutionError as error:
        ret.update(result=False, changes={}, comment=f"{name} gave no account: {error}")
        return ret
    ret["comment"] = "An account was made"
    return ret


def acme(name, settings):
    """Ensure that a certificate of the ACME authority is in use, as far as the authority gives one.

    name: path of the certificate. settings: the relay's settings.
    A name that cannot be validated is left out and named in a warning, unless it is the mail
    domain. The state fails only where no valid certificate for the mail domain is in use then;
    while one is, a failing authority is a warning. The challenges are answered by nginx (http-01),
    which must run, or in DNS (dns-01).

    .. code-block:: yaml

        certificate of the authority:
          chatmail_certificate.acme:
            - name: /etc/chatmail/tls/fullchain.pem
            - settings: {{ relay | json }}
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "The certificate is as wanted"}
    reason = __salt__["chatmail_certificate.due"](settings)
    if not reason and not __salt__["chatmail_certificate.issued_differs"]():
        return ret
    reason = reason or "another one is in use"
    old = _in_use()
    if __opts__["test"]:
        ret["changes"] = {"certificate": {"old": old, "new": {"names": settings["tls_names"]}}}
        ret.update(result=None, comment=f"A certificate would be requested: {reason}")
        return ret
    outcome = __salt__["chatmail_certificate.obtain"](settings)
    new = _in_use()
    if new != old:
        ret["changes"] = {"certificate": {"old": old, "new": new}}
    _tell_outcome(ret, settings, outcome, reason)
    return ret


def _tell_outcome(ret, settings, outcome, reason):
    """Put what came of a request into the state's result, comment and warnings."""
    problems = [
        f"{name} is not in the certificate: {why}" for name, why in outcome["missing"].items()
    ]
    if outcome["error"] and not problems:
        problems = [outcome["error"]]
    if settings["mail_domain"] in outcome["missing"]:
        ret["result"] = False
        ret["comment"] = f"No certificate was issued ({reason}): {outcome['error']}"
    elif problems:
        ret["warnings"] = problems
        ret["comment"] = f"The certificate is in use ({reason}), but: {'; '.join(problems)}"
    else:
        ret["comment"] = f"A certificate was issued: {reason}"


def external(name, certificate, key, subject_names):
    """Ensure that the operator's certificate and key are in use.

    name: path of the certificate in use. certificate, key: paths of the operator's files.
    subject_names: names that it should have; a warning tells which it lacks.
    Fails, and leaves the pair in use as it is, when a file is missing or unreadable or they do not
    match; also under test=True.

    .. code-block:: yaml

        operator's certificate:
          chatmail_certificate.external:
            - name: /etc/chatmail/tls/fullchain.pem
            - certificate: /etc/ssl/relay/fullchain.pem
            - key: /etc/ssl/relay/privkey.pem
            - subject_names: [chat.example.org]
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "The certificate is as wanted"}
    try:
        given = __salt__["chatmail_certificate.pair"](certificate, key)
        ret["warnings"] = _shortcomings(certificate, given, subject_names)
        if not __salt__["chatmail_certificate.differs"](certificate, key):
            return ret
        ret["changes"] = {"certificate": {"old": _in_use(), "new": _brief(given)}}
        if __opts__["test"]:
            ret.update(result=None, comment=f"{certificate} would be put in use")
            return ret
        __salt__["chatmail_certificate.install"](certificate, key)
    except (OSError, CommandExecutionError) as error:
        ret.update(result=False, changes={}, comment=f"The certificate was left as it is: {error}")
        return ret
    ret["comment"] = f"{certificate} was put in use"
    return ret


def _shortcomings(path, given, subject_names):
    """Return what is wrong with a certificate that can be served all the same."""
    found = []
    if lacking := sorted(set(subject_names) - set(given["names"])):
        found.append(f"{path} does not name {', '.join(lacking)}")
    if given["days_left"] < 0:
        found.append(f"{path} expired on {given['not_after']}")
    return found


def _in_use():
    """Return names and end of the certificate in use, None where there is none."""
    found = __salt__["chatmail_certificate.installed"]()
    return found and _brief(found)


def _brief(found):
    return {"names": found["names"], "not_after": found["not_after"]}


def _compare(name, key, group, wanted, acceptable):
    """Return why a new certificate is due (": reason" or "") and the changes, old and new."""
    changes, reason = {}, ""
    if not (acceptable["placeholder"] and _is_usable(name, key)):
        private_key = _load_key(key)
        if private_key is None:
            old = "unusable" if os.path.lexists(key) else None
            changes["key"] = {"old": old, "new": "EC P-256"}
        present = _present(name)
        reason = _fault(present, private_key, acceptable)
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
        found, right = _access(path), f"{owner} {mode:04o}"
        if found != right:
            changes[label] = {"old": found, "new": right}
    return (f": {reason}" if reason else ""), changes


def _is_usable(name, key):
    """Tell whether a daemon could serve with this pair, whatever kind of key it is."""
    try:
        __salt__["chatmail_certificate.pair"](name, key)
    except CommandExecutionError:
        return False
    return True


def _present(name):
    """Return what the certificate says, None where there is none that can be read."""
    try:
        return __salt__["chatmail_relay.certificate"](name)
    except CommandExecutionError:
        return None


def _fault(present, private_key, acceptable):
    """Return what is wrong with the certificate, "" if nothing is."""
    if present is None:
        return "there is none that can be read"
    if private_key is None or present["key_sha256"] != _key_digest(private_key):
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


def _converge(name, key, group, names, end, changes):
    """Write what `changes` names, the key first: a certificate can be made for it at any time."""
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise CommandExecutionError(f"group {group} does not exist") from None
    private_key = _load_key(key)
    if "key" in changes:
        private_key = ec.generate_private_key(ec.SECP256R1())
        _write(key, _pem(private_key), KEY_MODE, gid)
    if "certificate" in changes:
        _write(name, _issue(private_key, names, end), CERTIFICATE_MODE, 0)
    for path, owner, mode in ((key, gid, KEY_MODE), (name, 0, CERTIFICATE_MODE)):
        os.chown(path, 0, owner)
        os.chmod(path, mode)


def _load_key(path):
    """Return the private key of a file, None where there is none that may be used."""
    try:
        with open(path, "rb") as stream:
            key = serialization.load_pem_private_key(stream.read(), password=None)
    except (OSError, ValueError, TypeError):  # TypeError: it has a passphrase
        return None
    good = isinstance(key, ec.EllipticCurvePrivateKey)
    good = good or (isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048)
    return key if good else None


def _key_digest(private_key):
    """Return the SHA-256 of the public key, as `chatmail_relay.certificate` gives it."""
    public_key = private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(public_key).hexdigest()


def _pem(private_key):
    return private_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _issue(private_key, names, end):
    """Return a self-signed end-entity certificate (RFC 5280) for the names, in PEM."""
    common_name = names[0] if len(names[0]) <= MAX_COMMON_NAME else "chatmail"
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private_key.public_key())
        .serial_number(x509.random_serial_number())
        # A day back, for clients whose clock is behind.
        .not_valid_before(datetime.datetime.now(UTC) - datetime.timedelta(days=1))
        .not_valid_after(end)
    )
    extended = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])
    for extension, critical in (
        (x509.SubjectAlternativeName([_general_name(each) for each in names]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (extended, False),
        (x509.SubjectKeyIdentifier.from_public_key(private_key.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical)
    return builder.sign(private_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _general_name(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path, content, mode, gid):
    """Replace a file in one step; after a power failure it is the old or the new one, whole."""
    # The pair may lie behind links (chatmail_certificate.install), which stay.
    path = os.path.realpath(path)
    directory = os.path.dirname(path)
    handle, aside = tempfile.mkstemp(dir=directory, prefix=".chatmail-")
    try:
        with open(handle, "wb") as stream:
            os.fchown(stream.fileno(), 0, gid)
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _access(path):
    """Return a file's owner, group and mode such as "root:root 0640", None without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (
        f"{_name_of(pwd.getpwuid, found.st_uid)}:{_name_of(grp.getgrgid, found.st_gid)} "
        f"{stat.S_IMODE(found.st_mode):04o}"
    )


def _name_of(look_up, number):
    """Return the name of a user or group, its number where it has none."""
    try:
        return look_up(number)[0]
    except KeyError:
        return str(number)
