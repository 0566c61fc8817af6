#!/usr/bin/python3
"""Get the relay's certificate from an ACME authority or from the operator's files, and install it.

One file, two callers: Salt loads it as a module, and a copy, /usr/local/lib/chatmail/
chatmail_certificate.py, is run by chatmail-certificate.service and as certbot's deploy hook. Needs
`cryptography`; Salt brings its own, the copy uses Debian's.
"""

import contextlib
import datetime
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

from cryptography import x509

try:
    from salt.exceptions import CommandExecutionError as CertificateError
except ImportError:

    class CertificateError(Exception):
        """A failure; its text says what was found and what to do."""


__virtualname__ = "chatmail_certificate"

SETTINGS = Path("/etc/chatmail/relay.json")
# What all daemons read: two links to a pair, which changes as a whole (see `_install`).
TLS = Path("/etc/chatmail/tls")
CERTIFICATE, KEY = "fullchain.pem", "privkey.pem"
# What failed last; absent when all is well. `chatmail_relay.status` shows it.
FAILURE = Path("/var/lib/chatmail/certificate.json")
CERTBOT = Path("/etc/letsencrypt")
# certbot's name for ours among the certificates that it may have.
LINEAGE = "chatmail"
WEBROOT = "/var/lib/chatmail/acme"
DNS_CREDENTIALS = Path("/etc/chatmail/rfc2136.ini")
PROGRAM = "/usr/local/lib/chatmail/chatmail_certificate.py"
DAEMONS = ("nginx", "dovecot", "postfix")

UTC = datetime.timezone.utc  # noqa: UP017  Salt's own Python may be 3.10, which has no datetime.UTC
# certbot's own rule: renewed for the last 30 days, or the last third of a shorter life.
RENEW_BEFORE = datetime.timedelta(days=30)
# Seconds. certbot gives up on one server after 45, and waits for its answer on three names.
CERTBOT_TIMEOUT = 600
# Seconds for secondaries to get the records of a DNS challenge.
DNS_PROPAGATION = 30
# Seconds in which an operator's program may replace first one and then the other file.
PATIENCE = 30
# One name's part of certbot's report.
PROBLEM = re.compile(r"Domain: (\S+)\n\s*Type: +(\S+)\n\s*Detail: (.*)")
TSIG = re.compile(
    r'key\s+"?(?P<name>[^"\s{]+)"?\s*\{(?=[^}]*algorithm\s+"?(?P<algorithm>[\w-]+))'
    r'[^}]*secret\s+"?(?P<secret>[A-Za-z0-9+/=]+)'
)


def __virtual__():
    return __virtualname__


def pair(certificate, key):
    """Return what a certificate says, after a look at whether it can be served with its key.

    certificate, key: paths of PEM files; the certificate's own chain follows it.
    A dictionary: `names` (sorted), `not_before` and `not_after` (UTC, ISO 8601), `days_left`.
    Raises CommandExecutionError when a file is missing or unreadable, or they do not match.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.pair /etc/ssl/relay.pem /etc/ssl/private/relay.key
    """
    for path in (certificate, key):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise CertificateError(f"{path} cannot be read: {error.strerror}") from None
    try:
        # A key with a passphrase would ask for it on the terminal: an empty one is wrong.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        found = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
    except (ssl.SSLError, ValueError, OSError) as error:
        raise CertificateError(_unusable(certificate, key, error)) from None
    return _summary(found)


def _unusable(certificate, key, error):
    """Return what is wrong with a pair that OpenSSL refused."""
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"{certificate} and {key} do not belong together: the key is another certificate's"
    return (
        f"{certificate} and {key} cannot be used: expected a PEM certificate, followed by those of "
        f"its authority, and its PEM key without a passphrase; OpenSSL says: {error}"
    )


def _summary(found):
    """Return names and times of a certificate."""
    # Debian 12's cryptography knows neither property; later ones warn about the other two.
    start = getattr(found, "not_valid_before_utc", None)
    start = start or found.not_valid_before.replace(tzinfo=UTC)
    end = getattr(found, "not_valid_after_utc", None) or found.not_valid_after.replace(tzinfo=UTC)
    try:
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternative.get_values_for_type(x509.DNSName)
        names += [str(each) for each in alternative.get_values_for_type(x509.IPAddress)]
    except x509.ExtensionNotFound:
        names = []
    return {
        "names": sorted(names),
        "not_before": start.isoformat(),
        "not_after": end.isoformat(),
        "days_left": (end - datetime.datetime.now(UTC)).days,
    }


def installed():
    """Return what the certificate in use says, as `pair` does, None where there is no usable pair.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.installed
    """
    try:
        return pair(str(TLS / CERTIFICATE), str(TLS / KEY))
    except CertificateError:
        return None


def differs(certificate, key):
    """Tell whether another pair than this one is in use.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.differs /etc/ssl/relay.pem /etc/ssl/private/relay.key
    """
    for source, name in ((certificate, CERTIFICATE), (key, KEY)):
        try:
            if Path(source).read_bytes() != (TLS / name).read_bytes():
                return True
        except OSError:
            return True
    return False


def install(certificate, key):
    """Put a pair in use and reload the daemons, unless it is in use already.

    certificate, key: paths of PEM files. Returns whether something changed.
    The daemons see the old pair or the new one and never one file of each. Raises
    CommandExecutionError when the pair is unusable, and the old one stays.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.install /etc/ssl/relay.pem /etc/ssl/private/relay.key
    """
    if not differs(certificate, key):
        return False
    TLS.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = _copy(certificate, key)
    try:
        # The copy: what is in use is what was looked at, whatever happens to the files.
        pair(str(fresh / CERTIFICATE), str(fresh / KEY))
        _put_behind_links()
        _replace_link(TLS / "current", fresh.name)
    except BaseException:
        shutil.rmtree(fresh)
        raise
    for name in (CERTIFICATE, KEY):
        _replace_link(TLS / name, f"current/{name}")
    for old in TLS.glob("pair-*"):
        if old.name != os.readlink(TLS / "current"):
            shutil.rmtree(old)
    _reload()
    return True


def _copy(certificate, key):
    """Copy a pair into a directory of its own beside the one in use; return the directory."""
    directory = Path(tempfile.mkdtemp(prefix="pair-", dir=TLS))
    directory.chmod(0o755)
    for source, name, mode in ((certificate, CERTIFICATE, 0o644), (key, KEY, 0o640)):
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            shutil.rmtree(directory)
            raise CertificateError(f"{source} cannot be read: {error.strerror}") from None
        handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    return directory


def _put_behind_links():
    """Turn two plain files, such as the placeholder's, into links to the same content."""
    paths = [TLS / CERTIFICATE, TLS / KEY]
    if all(path.is_symlink() for path in paths) or not all(path.is_file() for path in paths):
        return
    _replace_link(TLS / "current", _copy(*paths).name)
    for path in paths:
        _replace_link(path, f"current/{path.name}")


def _replace_link(link, target):
    """Point a link elsewhere, or put it in a file's place, in one step."""
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    aside.symlink_to(target)
    aside.replace(link)


def _reload():
    """Have the daemons that run read the pair; a reload drops no connection."""
    failed = []
    for daemon in DAEMONS:
        if subprocess.run(["systemctl", "is-active", "--quiet", daemon], check=False).returncode:
            continue
        done = subprocess.run(["systemctl", "reload", daemon], check=False, capture_output=True)
        if done.returncode != 0:
            failed.append(daemon)
    if failed:
        raise CertificateError(
            f"the new certificate is in place, but {', '.join(failed)} did not reload; "
            f"see: systemctl status {' '.join(failed)}"
        )


# The authority.


def due(settings=None):
    """Return why a certificate must be asked of the authority, "" when none must.

    settings: the relay's settings; those that it runs with if not given.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.due
    """
    relay = settings or _settings()
    issued = _issued()
    if issued is None:
        return "there is none of the authority"
    missing = [name for name in relay["tls_names"] if name not in issued["names"]]
    if missing:
        return f"it lacks {', '.join(missing)}"
    return _outdated(relay, issued)


def _outdated(relay, issued):
    """Return why what the authority issued must go whatever its names, "" if it may stay."""
    start, end = (datetime.datetime.fromisoformat(issued[k]) for k in ("not_before", "not_after"))
    if end - datetime.datetime.now(UTC) < min(RENEW_BEFORE, (end - start) / 3):
        return f"it expires in {issued['days_left']} days"
    with contextlib.suppress(OSError):
        renewal = (CERTBOT / "renewal" / f"{LINEAGE}.conf").read_text()
        found = re.search(r"^server = (.*)$", renewal, re.M)
        if found and found[1] != relay["acme_directory"]:
            return f"it is of another authority, {found[1]}"
    return ""


def _lineage():
    """Return the paths of the certificate and the key that certbot got last."""
    return tuple(str(CERTBOT / "live" / LINEAGE / name) for name in (CERTIFICATE, KEY))


def _issued():
    """Return what certbot's certificate says, None where it has none for us."""
    try:
        return pair(*_lineage())
    except CertificateError:
        return None


def issued_differs():
    """Tell whether the authority's certificate is there and another one is in use.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.issued_differs
    """
    return _issued() is not None and differs(*_lineage())


def has_account(settings=None):
    """Tell whether the machine has an account with the authority.

    settings: the relay's settings; those that it runs with if not given.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.has_account
    """
    server = urllib.parse.urlsplit((settings or _settings())["acme_directory"])
    accounts = CERTBOT / "accounts" / server.netloc / server.path.strip("/")
    return any(accounts.glob("*/regr.json"))


def register(settings=None):
    """Make an account with the authority; nothing happens when there is one.

    settings: the relay's settings; those that it runs with if not given.
    Raises CommandExecutionError with certbot's words when it fails.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.register
    """
    relay = settings or _settings()
    if not has_account(relay):
        _certbot("register", *_account_options(relay))


def obtain(settings=None):
    """Get a certificate of the ACME authority if one is due, and put it in use.

    settings: the relay's settings; those that it runs with if not given.
    Returns {"error": None or what failed, "missing": {name: why} of the names that the certificate
    lacks}. Names that cannot be validated do not keep the others from being issued, unless the
    mail domain is among them. Whatever fails, the certificate in use stays.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.obtain
    """
    relay = settings or _settings()
    error, problems = None, {}
    if due(relay):
        error, problems = _request_all_or_most(relay)
    issued = _issued()
    usable = issued and relay["mail_domain"] in issued["names"] and issued["days_left"] >= 0
    names = issued["names"] if usable else []
    missing = {
        name: problems.get(name) or error or "not asked for"
        for name in relay["tls_names"]
        if name not in names
    }
    if usable:
        try:
            install(*_lineage())
        except (OSError, CertificateError) as failure:
            error = str(failure)
    _record(error, missing)
    return {"error": error, "missing": missing}


def _request_all_or_most(relay):
    """Ask for all names, and if some fail and there is need, for the others.

    Returns (error, problems): None or a text, and {name: why} of the names that failed.
    """
    try:
        _request(relay, relay["tls_names"])
    except CertificateError as error:
        problems = {name: f"{kind}: {text}" for name, kind, text in PROBLEM.findall(str(error))}
        shown = "; ".join(f"{name}: {why}" for name, why in problems.items()) or str(error)
    else:
        return None, {}
    issued = _issued()
    others = [name for name in relay["tls_names"] if name not in problems]
    # One that is good for a while and lacks nothing but these is left in peace: authorities limit
    # how often they issue the same certificate.
    enough = issued and set(others) <= set(issued["names"]) and not _outdated(relay, issued)
    if problems and relay["mail_domain"] in others and not enough:
        try:
            _request(relay, others)
        except CertificateError as error:
            return str(error), problems
    return shown, problems


def _request(relay, names):
    """Have certbot get a certificate for exactly these names."""
    options = ["--cert-name", LINEAGE, "--domains", ",".join(names), "--renew-with-new-domains"]
    # Whether it is time was our question already.
    options += ["--force-renewal", "--deploy-hook", f"{PROGRAM} deploy"]
    if relay["acme_challenge"] == "dns-01":
        _write_dns_credentials(relay["dns"])
        options += ["--dns-rfc2136", "--dns-rfc2136-credentials", str(DNS_CREDENTIALS)]
        options += ["--dns-rfc2136-propagation-seconds", str(DNS_PROPAGATION)]
    else:
        options += ["--webroot", "--webroot-path", WEBROOT]
    _certbot("certonly", *_account_options(relay), *options)


def _account_options(relay):
    options = ["--server", relay["acme_directory"], "--agree-tos"]
    if relay["acme_email"]:
        return [*options, "--email", relay["acme_email"], "--no-eff-email"]
    return [*options, "--register-unsafely-without-email"]


def _certbot(*arguments):
    """Run certbot; raise with what it said when it fails."""
    try:
        done = subprocess.run(
            ["certbot", "--non-interactive", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=CERTBOT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CertificateError(f"certbot did not end within {CERTBOT_TIMEOUT} s") from None
    except FileNotFoundError:
        raise CertificateError("certbot is not installed; apply chatmail.certificate") from None
    if done.returncode != 0:
        raise CertificateError(_said(done.stdout))


def _said(output):
    """Return certbot's message without what it says each time."""
    habit = ("Saving debug log", "Ask for help", "See the logfile", "Some challenges have failed")
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith(habit)]
    return "\n".join(lines[-30:]) or "certbot failed and said nothing; see /var/log/letsencrypt"


def _write_dns_credentials(given):
    """Write server and TSIG key in the form of certbot's plugin, for root's eyes."""
    host, _, port = given["server"].rpartition(":")
    key = _tsig_key(given["tsig_key_file"])
    lines = {
        "server": _address(host.strip("[]")),
        "port": port,
        "name": key["name"],
        "secret": key["secret"],
        # The plugin of Debian 12 knows algorithms in capitals only.
        "algorithm": key["algorithm"].upper(),
    }
    text = "".join(f"dns_rfc2136_{name} = {value}\n" for name, value in lines.items())
    with tempfile.NamedTemporaryFile("w", dir=DNS_CREDENTIALS.parent, delete=False) as stream:
        stream.write(text)
    os.replace(stream.name, DNS_CREDENTIALS)


def _tsig_key(path):
    """Return name, algorithm and secret from a file as tsig-keygen(8) writes it."""
    try:
        found = TSIG.search(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise CertificateError(f"dns:tsig_key_file: {path} cannot be read: {error}") from None
    if not found:
        raise CertificateError(
            f"dns:tsig_key_file: {path} holds no TSIG key; expected what tsig-keygen writes: "
            'key "NAME" { algorithm hmac-sha256; secret "…"; };'
        )
    return found.groupdict()


def _address(host):
    """Return the IP address of a name server: certbot's plugin takes no names."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    try:
        return socket.getaddrinfo(host, 53, proto=socket.IPPROTO_TCP)[0][4][0]
    except OSError as error:
        raise CertificateError(f"dns:server: {host} has no address: {error.strerror}") from None


def _record(error, missing):
    """Keep what failed for `chatmail_relay.status`, or forget it."""
    if not error and not missing:
        FAILURE.unlink(missing_ok=True)
        return
    now = datetime.datetime.now(UTC).isoformat(timespec="seconds")
    FAILURE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    aside = FAILURE.with_name(f".{FAILURE.name}")
    aside.write_text(json.dumps({"time": now, "error": error, "missing": missing}))
    aside.replace(FAILURE)


# The operator's files.


def external(settings=None):
    """Put the operator's pair (`tls_external_cert_and_key`) in use if it changed.

    settings: the relay's settings; those that it runs with if not given.
    Returns whether something changed. Raises CommandExecutionError when a file is missing or
    unreadable or they do not match; the pair in use stays then, and the failure is kept for
    `chatmail_relay.status`.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.external
    """
    relay = settings or _settings()
    try:
        changed = install(*relay["tls_external_cert_and_key"])
    except CertificateError as error:
        _record(str(error), {})
        raise
    _record(None, {})
    return changed


def _settings():
    """Return the settings that the last converge wrote."""
    try:
        return json.loads(SETTINGS.read_text())
    except (OSError, ValueError) as error:
        raise CertificateError(
            f"{SETTINGS}: {error}. Run: salt-call state.apply chatmail"
        ) from None


def _external_patiently(relay):
    """As `external`, but give whoever replaces two files the time to replace the second."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return external(relay)
        except CertificateError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _main(arguments):
    """Do what is due in the relay's TLS mode; `deploy` is certbot's hook."""
    try:
        relay = _settings()
        if relay["tls_mode"] == "external" and not arguments:
            _external_patiently(relay)
        elif relay["tls_mode"] == "acme" and arguments == ["deploy"]:
            issued = _issued()
            if issued and relay["mail_domain"] in issued["names"]:
                install(*_lineage())
        elif relay["tls_mode"] == "acme" and not arguments:
            outcome = obtain(relay)
            if outcome["error"]:
                raise CertificateError(outcome["error"])
    except (OSError, CertificateError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
