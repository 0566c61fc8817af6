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
# The name by which certbot knows the relay's certificate.
LINEAGE = "chatmail"
WEBROOT = "/var/lib/chatmail/acme"
DNS_CREDENTIALS = Path("/etc/chatmail/rfc2136.ini")
# The command that certbot runs when it has renewed the certificate.
DEPLOY_HOOK = (
    "/usr/bin/env PYTHONPATH=/usr/local/lib/chatmail "
    "/usr/bin/python3 -m chatmaild.certificate deploy"
)
# certbot's own rule: a certificate is renewed in its last 30 days, or in the last third of a
# shorter life.
RENEW_BEFORE = datetime.timedelta(days=30)
# Seconds. certbot waits 45 s for one answer of a server, and asks about three names.
CERTBOT_TIMEOUT = 600
# The seconds in which secondary name servers get the records of a DNS challenge.
DNS_PROPAGATION = 30
# The part of certbot's report about one name.
PROBLEM = re.compile(r"Domain: (\S+)\n\s*Type: +(\S+)\n\s*Detail: (.*)")


def only_our_hook(content: bytes) -> bytes:
    """Return a renewal configuration without commands of others: certbot runs them as root.

    They are its hooks, and the programs of its plugins (`nginx_ctl`, `apache_ctl`).
    """
    ours = f"renew_hook = {DEPLOY_HOOK}"
    return "".join(
        line
        for line in content.decode(errors="replace").splitlines(keepends=True)
        if not re.search("hook|ctl", line.partition("=")[0]) or line.strip() == ours
    ).encode()


def find_reason_to_ask(settings):
    """Return the reason to ask the authority for a certificate, "" without a reason."""
    issued = describe_issued() or installing.describe_taken_over()
    if issued is None:
        return "the authority has not issued one"
    missing = [name for name in settings["tls_names"] if name not in issued["names"]]
    if missing:
        return f"it lacks {', '.join(missing)}"
    return _find_reason_to_renew(settings, issued)


def _find_reason_to_renew(settings, issued):
    """Return the reason to replace an issued certificate whose names are right, "" without one."""
    start, end = (datetime.datetime.fromisoformat(issued[k]) for k in ("not_before", "not_after"))
    if end - datetime.datetime.now(datetime.UTC) < min(RENEW_BEFORE, (end - start) / 3):
        return f"it expires in {issued['days_left']} days"
    with contextlib.suppress(OSError):
        renewal = (CERTBOT / "renewal" / f"{LINEAGE}.conf").read_text()
        found = re.search(r"^server = (.*)$", renewal, re.M)
        if found and found[1] != settings["acme_directory"]:
            return f"another authority issued it, {found[1]}"
    return ""


def lineage_paths():
    """Return the paths of certbot's newest certificate and of its key."""
    return tuple(str(CERTBOT / "live" / LINEAGE / name) for name in (CERTIFICATE, KEY))


def describe_issued():
    """Return the content of certbot's certificate as `read_pair` does, None without one."""
    try:
        return read_pair(*lineage_paths())
    except OperatorError:
        return None


def issued_differs():
    """Return whether the authority has issued a certificate and another one is in use."""
    return describe_issued() is not None and installing.differs(*lineage_paths())


def plan(settings):
    """Return what a converge has to know before it acts: {"reason", "in_use"}.

    reason: why a certificate must be requested or installed, "" if nothing has to be done.
    in_use: the content of the certificate in use.
    """
    reason = find_reason_to_ask(settings)
    if not reason and issued_differs():
        reason = "another one is in use"
    return {"reason": reason, "in_use": installing.describe_installed()}


def has_account(settings):
    """Return whether the machine has an account with the authority."""
    server = urllib.parse.urlsplit(settings["acme_directory"])
    accounts = CERTBOT / "accounts" / server.netloc / server.path.strip("/")
    return any(accounts.glob("*/regr.json"))


def register(settings):
    """Make an account with the authority, unless there is one already.

    Raises OperatorError with certbot's message when this fails.
    """
    if not has_account(settings):
        _run_certbot("register", *_make_account_options(settings))


def obtain(settings):
    """Request a certificate from the ACME authority if one is due, and put it in use.

    Returns {"error": None or a text, "missing": {name: reason}}. `missing` has the names that the
    certificate lacks. When the authority cannot validate some names, the certificate is for the
    other names, if the mail domain is one of these. After a failure the certificate in use stays.
    """
    error, problems = None, {}
    if find_reason_to_ask(settings):
        error, problems = _request_all_or_most(settings)
    issued = describe_issued()
    found = issued or installing.describe_taken_over()
    usable = found and settings["mail_domain"] in found["names"] and found["days_left"] >= 0
    names = found["names"] if usable else []
    missing = {
        name: problems.get(name) or error or "not requested"
        for name in settings["tls_names"]
        if name not in names
    }
    if usable and issued:
        try:
            install(*lineage_paths())
        except (OSError, OperatorError) as failure:
            error = str(failure)
    record_failure(error, missing)
    return {"error": error, "missing": missing}


def replace_key(settings):
    """Request a certificate with a new key for the names of the present one, and put it in use.

    Raises OperatorError with certbot's message when that fails; the present certificate stays.
    """
    issued = describe_issued()
    if issued is None:
        raise OperatorError("there is no certificate of the authority yet; apply chatmail")
    wanted = [name for name in settings["tls_names"] if name in issued["names"]]
    _request(settings, wanted, new_key=True)
    install(*lineage_paths())


def _request_all_or_most(settings):
    """Request a certificate for all names. If some names fail, request one for the other names.

    Returns (error, problems): None or a text, and {name: reason} of the names that failed.
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
    # A certificate stays when it is good for a while and lacks only the names that failed, because
    # authorities limit how often they issue the same certificate.
    enough = issued and set(others) <= set(issued["names"])
    enough = enough and not _find_reason_to_renew(settings, issued)
    if problems and settings["mail_domain"] in others and not enough:
        try:
            _request(settings, others)
        except OperatorError as error:
            return str(error), problems
    return shown, problems


def _request(settings, names, new_key=False):
    """Let certbot request a certificate for exactly these names. Raises OperatorError.

    The certificate gets the key of the last one, or a new key.
    """
    options = ["--cert-name", LINEAGE, "--domains", ",".join(names), "--renew-with-new-domains"]
    # Delta Chat remembers the key of a host that it trusts, and accepts an expired certificate with
    # that key. certbot keeps this option for its own renewals.
    options += ["--reuse-key", *(["--new-key"] if new_key else [])]
    # certbot must not decide whether a renewal is due: find_reason_to_ask has decided it.
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
    """Run certbot. Raises OperatorError with certbot's message when it fails."""
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
    """Return certbot's message without the lines that each message has."""
    usual = ("Saving debug log", "Ask for help", "See the logfile", "Some challenges have failed")
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith(usual)]
    return "\n".join(lines[-30:]) or "certbot failed without a message; see /var/log/letsencrypt"


def _write_dns_credentials(given):
    """Write the server and the TSIG key in the form of certbot's plugin. Only root may read it."""
    host, _, port = given["server"].rpartition(":")
    key = read_tsig_key(given["tsig_key_file"])
    lines = {
        "server": _find_address(host.strip("[]")),
        "port": port,
        "name": key.name,
        "secret": key.secret,
        # The plugin of Debian 12 knows only names of algorithms in capital letters.
        "algorithm": key.algorithm.upper(),
    }
    text = "".join(f"dns_rfc2136_{name} = {value}\n" for name, value in lines.items())
    atomic_files.replace(DNS_CREDENTIALS, text)


def _find_address(host):
    """Return the IP address of a name server, because certbot's plugin does not accept names."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(host))
    try:
        return socket.getaddrinfo(host, 53, proto=socket.IPPROTO_TCP)[0][4][0]
    except OSError as error:
        raise OperatorError(f"dns:server: {host} has no address: {error.strerror}") from None
