"""What a take-over would do, for the operator to read. Nothing here changes the machine."""

import os
import time

from chatmaild.adopt import ini, journal, machine, mailboxes, problems
from chatmaild.certificate.summary import read_pair
from chatmaild.common.errors import OperatorError

ALWAYS_LOST = (
    "mail to user+tag@ reaches nobody: the relay has no address extensions",
    "mail that cannot be delivered goes back after 2 days, not after 5",
    "entries of metadata.json other than device tokens",
    "the pages in /var/www/html stay on the disk, but the relay serves its own, or `www_folder`",
)
TO_DO = (
    "never run cmdeploy for this machine again: it would put its own files back",
    "publish the records that `chatmail_dns.check` lacks, such as that of the second DKIM key",
)


def plan(_settings, listeners):
    """Return what a take-over would do.

    listeners: what `chatmail_relay.ports` returns.
    Returns {"state", "problems", "domain", "version", "pillar", "without_equivalent", "lost",
    "removed", "to_do", "found"}. state: ready, refused or, when a take-over has begun, the result
    of `describe_begun`. Raises OperatorError on a machine that cmdeploy did not set up.
    """
    if begun := journal.read():
        return describe_begun(begun)
    given = machine.read_settings()
    states = machine.unit_states([*machine.UNITS, *machine.DAEMONS])
    pillar, without = ini.translate(given, machine.find_fixed_limits())
    found = find(given)
    refused = problems.find(given, listeners, states)
    return {
        "state": "refused" if refused else "ready",
        "problems": refused,
        "domain": given["mail_domain"],
        "version": _read_version(),
        "pillar": ini.show(pillar),
        "without_equivalent": without,
        "lost": [*describe_lost(found), *ALWAYS_LOST],
        "removed": [path for path in machine.REMOVED if os.path.lexists(machine.here(path))],
        "to_do": [*TO_DO, *_describe_authority(given), *_describe_unused()],
        "found": found,
    }


def describe_begun(begun):
    """Return the state of a take-over that has begun.

    {"state", "done", "next", "seconds_without_mail", "undo_until"}. state: begun or serving.
    seconds_without_mail: between the stop of the old daemons and the start of the new ones, None
    before that. undo_until: local time.
    """
    started = max(_find_start(unit) for unit in ("postfix@-.service", "dovecot.service"))
    serving = machine.here(problems.SETTINGS).exists() and started > begun.get("stopped", started)
    return {
        "state": "serving" if serving else "begun",
        "done": begun["done"],
        "next": "salt-call state.apply chatmail" if begun.get("ready") else "chatmail_adopt.start",
        "seconds_without_mail": round(started - begun["stopped"], 1) if serving else None,
        "undo_until": time.strftime("%Y-%m-%d %H:%M", time.localtime(last_moment(begun))),
    }


def last_moment(begun):
    """Return the midnight (Unix seconds) after which the new relay may have removed mail."""
    day = time.localtime(begun["started"])
    return time.mktime((day.tm_year, day.tm_mon, day.tm_mday + 1, 0, 0, 0, 0, 0, -1))


def _find_start(unit):
    """Return when a unit became active, in Unix seconds, 0 when it is not active."""
    text = machine.run(
        *("systemctl", "show", unit, "--property=ActiveState,ActiveEnterTimestampMonotonic"),
        check=False,
    )
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if found.get("ActiveState") != "active":
        return 0
    since_boot = int(found.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    return time.time() - time.clock_gettime(time.CLOCK_MONOTONIC) + since_boot


def find(given):
    """Return what the machine has that matters for a take-over, without an address."""
    installed, candidate = machine.dovecot_versions()
    certificate, key = machine.find_certificate(given)
    try:
        until = read_pair(str(machine.here(certificate)), str(machine.here(key)))["not_after"]
    except OperatorError:
        until = None
    return {
        **mailboxes.count(machine.find_mailboxes(given), given["mail_domain"]),
        "certificate": certificate,
        "certificate_until": until,
        "dovecot": installed,
        "dovecot_of_debian": candidate,
        "dkim_selector": None if machine.is_ip(given["mail_domain"]) else "opendkim",
        "queued": _count_queued(),
    }


def _count_queued():
    queue = machine.here("/var/spool/postfix")
    parts = ("incoming", "active", "deferred", "hold")
    return sum(len(names) for part in parts for *_, names in os.walk(queue / part))


def describe_lost(found):
    """Yield a sentence for each loss that depends on the machine. found: the result of `find`."""
    if number := found["unusable"]:
        yield (
            f"{number} addresses have characters other than a-z, 0-9, '.', '_' and '-': nobody "
            "can log in there; their mail stays on the disk"
        )
    if number := found["without_password"]:
        yield (
            f"{number} directories of mailboxes have no password file, so they belong to no "
            "address and nobody can log in there; they stay on the disk"
        )
    if number := found["foreign_hashes"]:
        yield f"{number} password files hold no hash that Dovecot knows: nobody can log in there"
    if number := found["raw_logs"]:
        yield f"{number} recorded IMAP sessions (*.in, *.out) stay in mailboxes: delete them"
    if found["dovecot"] != found["dovecot_of_debian"]:
        yield f"Dovecot {found['dovecot']} is replaced by Debian's, {found['dovecot_of_debian']}"


def _read_version():
    try:
        return machine.here("/etc/chatmail-version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return "unknown"


def _describe_authority(given):
    if machine.find_certificate(given)[0].startswith("/var/lib/acme/"):
        yield (
            "CAA: the relay gets an ACME account of its own. If the CAA record names the account "
            "of acmetool (accounturi), replace the record by that of `chatmail_dns.zone` before "
            "the certificate is renewed, 30 days before its end: until then no authority issues one"
        )


def _describe_unused():
    packages = [name for name in machine.UNUSED_PACKAGES if is_installed(name)]
    if packages:
        yield f"after the last day for undo: apt-get purge {' '.join(packages)}"
    passwd = machine.here("/etc/passwd").read_text()
    names = [line.partition(":")[0] for line in passwd.splitlines()]
    if users := [name for name in machine.UNUSED_USERS if name in names]:
        yield f"after the last day for undo: remove the users {', '.join(users)}"


def is_installed(name):
    """Return whether a Debian package is installed."""
    status = machine.run("dpkg-query", "-W", "-f", "${Status}", name, check=False)
    return status == "install ok installed"
