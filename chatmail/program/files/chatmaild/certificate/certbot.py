"""Certificates of an ACME authority, by certbot."""

import contextlib
import datetime
import ipaddress
import re
import socket
import subprocess
import urllib.parse
from pathlib import Path

from chatmaild.certificate import installing
from chatmaild.certificate.failures import record_failure
from chatmaild.certificate.installing import CERTIFICATE, KEY, install
from chatmaild.certificate.summary import read_pair
from chatmaild.common import atomic_files
from chatmaild.common.errors import OperatorError
from chatmaild.common.tsig_key import read_tsig_key

CERTBOT = Path("/etc/letsencrypt")
# certbot's name for ours among the certificates that it may have.
LINEAGE = "chatmail"
WEBROOT = "/var/lib/chatmail/acme"
DNS_CREDENTIALS = Path("/etc/chatmail/rfc2136.ini")
# What certbot runs when it has renewed the certificate.
DEPLOY_HOOK = (
    "/usr/bin/env PYTHONPATH=/usr/local/lib/chatmail "
    "/usr/bin/python3 -m chatmaild.certificate deploy"
)
# certbot's own rule: renewed for the last 30 days, or the last third of a shorter life.
RENEW_BEFORE = datetime.timedelta(days=30)
# Seconds. certbot gives up on one server after 45, and waits for its answer on three names.
CERTBOT_TIMEOUT = 600
# Seconds for secondaries to get the records of a DNS challenge.
DNS_PROPAGATION = 30
# One name's part of certbot's report.
PROBLEM = re.compile(r"Domain: (\S+)\n\s*Type: +(\S+)\n\s*Detail: (.*)")


def find_reason_to_ask(settings):
    """Return why a certificate must be asked of the authority, "" when none must."""
    issued = describe_issued()
    if issued is None:
        return "there is none of the authority"
    missing = [name for name in settings["tls_names"] if name not in issued["names"]]
    if missing:
        return f"it lacks {', '.join(missing)}"
    return _find_reason_to_renew(settings, issued)


def _find_reason_to_renew(settings, issued):
    """Return why what the authority issued must go whatever its names, "" if it may stay."""
    start, end = (datetime.datetime.fromisoformat(issued[k]) for k in ("not_before", "not_after"))
    if end - datetime.datetime.now(datetime.UTC) < min(RENEW_BEFORE, (end - start) / 3):
        return f"it expires in {issued['days_left']} days"
    with contextlib.suppress(OSError):
        renewal = (CERTBOT / "renewal" / f"{LINEAGE}.conf").read_text()
        found = re.search(r"^server = (.*)$", renewal, re.M)
        if found and found[1] != settings["acme_directory"]:
            return f"it is of another authority, {found[1]}"
    return ""


def lineage_paths():
    """Return the paths of the certificate and the key that certbot got last."""
    return tuple(str(CERTBOT / "live" / LINEAGE / name) for name in (CERTIFICATE, KEY))


def describe_issued():
    """Return what certbot's certificate says, None where it has none for us."""
    try:
        return read_pair(*lineage_paths())
    except OperatorError:
        return None


def issued_differs():
    """Tell whether the authority's certificate is there and another one is in use."""
    return describe_issued() is not None and installing.differs(*lineage_paths())


def plan(settings):
    """Return what a converge asks first: {"reason", "in_use"}.

    reason: why a certificate must be asked for or be put in use, "" if nothing is to be done.
    in_use: what the certificate in use says.
    """
    reason = find_reason_to_ask(settings)
    if not reason and issued_differs():
        reason = "another one is in use"
    return {"reason": reason, "in_use": installing.describe_installed()}


def has_account(settings):
    """Tell whether the machine has an account with the authority."""
    server = urllib.parse.urlsplit(settings["acme_directory"])
    accounts = CERTBOT / "accounts" / server.netloc / server.path.strip("/")
    return any(accounts.glob("*/regr.json"))


def register(settings):
    """Make an account with the authority; nothing happens when there is one.

    Raises OperatorError with certbot's words when it fails.
    """
    if not has_account(settings):
        _run_certbot("register", *_make_account_options(settings))


def obtain(settings):
    """Get a certificate of the ACME authority if one is due, and put it in use.

    Returns {"error": None or what failed, "missing": {name: why} of the names that the certificate
    lacks}. Names that cannot be validated do not keep the others from being issued, unless the
    mail domain is among them. Whatever fails, the certificate in use stays.
    """
    error, problems = None, {}
    if find_reason_to_ask(settings):
        error, problems = _request_all_or_most(settings)
    issued = describe_issued()
    usable = issued and settings["mail_domain"] in issued["names"] and issued["days_left"] >= 0
    names = issued["names"] if usable else []
    missing = {
        name: problems.get(name) or error or "not asked for"
        for name in settings["tls_names"]
        if name not in names
    }
    if usable:
        try:
            install(*lineage_paths())
        except (OSError, OperatorError) as failure:
            error = str(failure)
    record_failure(error, missing)
    return {"error": error, "missing": missing}


def replace_key(settings):
    """Get a certificate with a new key and put it in use, whatever the age of the present one.

    It is for the names of the present one. Raises OperatorError with certbot's words when it fails,
    and the certificate in use stays.
    """
    issued = describe_issued()
    if issued is None:
        raise OperatorError("there is no certificate of the authority yet; apply chatmail")
    wanted = [name for name in settings["tls_names"] if name in issued["names"]]
    _request(settings, wanted, new_key=True)
    install(*lineage_paths())


def _request_all_or_most(settings):
    """Ask for all names, and if some fail and there is need, for the others.

    Returns (error, problems): None or a text, and {name: why} of the names that failed.
    """
    try:
        _request(settings, settings["tls_names"])
    except OperatorError as error:
        problems = {name: f"{kind}: {text}" for name, kind, text in PROBLEM.findall(str(error))}
        shown = "; ".join(f"{name}: {why}" for name, why in problems.items()) or str(error)
    else:
        return None, {}
    issued = describe_issued()
    others = [name for name in settings["tls_names"] if name not in problems]
    # One that is good for a while and lacks nothing but these is left in peace: authorities limit
    # how often they issue the same certificate.
    enough = issued and set(others) <= set(issued["names"])
    enough = enough and not _find_reason_to_renew(settings, issued)
    if problems and settings["mail_domain"] in others and not enough:
        try:
            _request(settings, others)
        except OperatorError as error:
            return str(error), problems
    return shown, problems


def _request(settings, names, new_key=False):
    """Have certbot get a certificate for exactly these names, for the key that it has."""
    options = ["--cert-name", LINEAGE, "--domains", ",".join(names), "--renew-with-new-domains"]
    # Delta Chat remembers the key of a host that it trusts, and takes an expired certificate with
    # that key. certbot keeps the option for its own renewals.
    options += ["--reuse-key", *(["--new-key"] if new_key else [])]
    # Whether it is time was our question already.
    options += ["--force-renewal", "--deploy-hook", DEPLOY_HOOK]
    if settings["acme_challenge"] == "dns-01":
        _write_dns_credentials(settings["dns"])
        options += ["--dns-rfc2136", "--dns-rfc2136-credentials", str(DNS_CREDENTIALS)]
        options += ["--dns-rfc2136-propagation-seconds", str(DNS_PROPAGATION)]
    else:
        options += ["--webroot", "--webroot-path", WEBROOT]
    _run_certbot("certonly", *_make_account_options(settings), *options)


def _make_account_options(settings):
    options = ["--server", settings["acme_directory"], "--agree-tos"]
    if settings["acme_email"]:
        return [*options, "--email", settings["acme_email"], "--no-eff-email"]
    return [*options, "--register-unsafely-without-email"]


def _run_certbot(*arguments):
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
        raise OperatorError(f"certbot did not end within {CERTBOT_TIMEOUT} s") from None
    except FileNotFoundError:
        raise OperatorError("certbot is not installed; apply chatmail.certificate") from None
    if done.returncode != 0:
        raise OperatorError(_shorten_message(done.stdout))


def _shorten_message(output):
    """Return certbot's message without what it says each time."""
    habit = ("Saving debug log", "Ask for help", "See the logfile", "Some challenges have failed")
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith(habit)]
    return "\n".join(lines[-30:]) or "certbot failed and said nothing; see /var/log/letsencrypt"


def _write_dns_credentials(given):
    """Write server and TSIG key in the form of certbot's plugin, for root's eyes."""
    host, _, port = given["server"].rpartition(":")
    key = read_tsig_key(given["tsig_key_file"])
    lines = {
        "server": _find_address(host.strip("[]")),
        "port": port,
        "name": key.name,
        "secret": key.secret,
        # The plugin of Debian 12 knows algorithms in capitals only.
        "algorithm": key.algorithm.upper(),
    }
    text = "".join(f"dns_rfc2136_{name} = {value}\n" for name, value in lines.items())
    atomic_files.replace(DNS_CREDENTIALS, text)


def _find_address(host):
    """Return the IP address of a name server: certbot's plugin takes no names."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    try:
        return socket.getaddrinfo(host, 53, proto=socket.IPPROTO_TCP)[0][4][0]
    except OSError as error:
        raise OperatorError(f"dns:server: {host} has no address: {error.strerror}") from None
