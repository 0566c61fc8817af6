"""The start of a take-over: everything that must happen before `state.apply chatmail`.

The journal has each finished step. A run that was interrupted goes on with the step that it left.
Each step can run again. The steps before `stop` leave the mail service alone.
"""

import contextlib
import os
import pwd
import shutil
import time

from chatmaild.adopt import ini, journal, machine, mailboxes, planning, problems
from chatmaild.certificate import installing
from chatmaild.common import atomic_files
from chatmaild.common.errors import OperatorError

OUR_DKIM = "/etc/chatmail/dkim"
# Without questions about configuration files. cmdeploy's own stay until the converge.
APT = (
    *("apt-get", "-q", "-y", "--no-install-recommends"),
    *("-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Options::=--force-confdef"),
    # Upgrades at night hold the lock for minutes.
    *("-o", "DPkg::Lock::Timeout=600"),
)
# The converge installs these after the mail service has begun again.
LATER = {"coturn", "certbot", "python3-certbot-dns-rfc2136"}
# Settings of the machine that the pillar must keep. With another value the mail would be lost.
MUST_AGREE = ("mail_domain", "mailboxes_dir", "tls_external_cert_and_key")


def start(settings, listeners, packages):
    """Prepare the machine for `state.apply chatmail`, and stop what cmdeploy set up.

    settings: the pillar's settings. listeners: what `chatmail_relay.ports` returns. packages: the
    names of all packages that the converge installs.
    Returns {"stopped", "next", "differs"}. stopped: when the mail service ended, Unix seconds.
    differs: settings of the pillar that change the machine's behaviour.
    Raises OperatorError, with nothing changed, on a machine that cannot be taken over, and while
    another run is at work.
    """
    with journal.locked():
        return _start(settings, listeners, packages)


def _start(settings, listeners, packages):
    begun = journal.read()
    if begun is None:
        given = machine.read_settings()
        differs = compare(given, settings)
        check(given, settings, listeners, differs)
        begun = {
            "started": time.time(),
            "given": given,
            "differs": differs,
            "done": [],
            "before": _note(),
        }
        journal.write(begun)
    for step in STEPS:
        name = step.__name__.strip("_")
        if name not in begun["done"]:
            step(begun, packages)
            begun["done"].append(name)
            journal.write(begun)
    if not begun.get("ready"):
        begun["ready"] = True
        journal.write(begun)
    following = "salt-call state.apply chatmail"
    return {"stopped": begun["stopped"], "next": following, "differs": begun["differs"]}


def check(given, settings, listeners, differs):
    """Refuse a machine or a pillar that does not fit. Raises OperatorError with all reasons."""
    states = machine.unit_states([*machine.UNITS, *machine.DAEMONS])
    found = problems.find(given, listeners, states)
    found += [
        f"pillar chatmail:{name} is {differs[name]['pillar']!r}, expected "
        f"{differs[name]['machine']!r}, as on this machine: set it in pillar"
        for name in MUST_AGREE
        if name in differs
    ]
    if found:
        lines = "\n".join(f"- {each}" for each in found)
        raise OperatorError(f"this machine cannot be taken over; nothing was changed:\n{lines}")


def compare(given, settings):
    """Return {setting: {"machine", "pillar"}} of the settings that the pillar would change."""
    wanted, _ = ini.translate(given, machine.find_fixed_limits())
    domain = given["mail_domain"]
    mailboxes_dir = machine.find_mailboxes(given)
    values = {setting.name: setting.default for setting in ini.SETTINGS} | wanted
    values |= {"mail_domain": domain, "mailboxes_dir": mailboxes_dir}
    return {
        name: {"machine": value, "pillar": settings.get(name)}
        for name, value in values.items()
        if settings.get(name) != value
    }


def _note():
    """Return what `undo` has to know about the machine as it was."""
    return {
        "units": machine.unit_states([*machine.UNITS, *machine.DAEMONS, *machine.OTHERS]),
        "shell": pwd.getpwnam("vmail").pw_shell,
        "dovecot": machine.dovecot_versions()[0],
    }


def _keep(begun, _packages):
    """Copy all files that the take-over or the converge will touch."""
    journal.files().mkdir(mode=0o700, exist_ok=True)
    for path in (*machine.REMOVED, *machine.REPLACED):
        journal.keep(path)


def _packages(begun, packages):
    """Install what the converge needs and what does not touch the mail service; fetch the rest."""
    # An interrupted run may have left packages that are not configured. apt then does nothing.
    machine.run("dpkg", "--configure", "-a")
    machine.run("apt-get", "-q", "update")
    early = [
        name
        for name in packages
        if name not in LATER and not name.startswith("dovecot-") and not planning.is_installed(name)
    ]
    if early:
        machine.run(*APT, "install", *early)
    # The pin of cmdeploy lets apt see no Dovecot at all.
    machine.here("/etc/apt/preferences.d/pin-dovecot").unlink(missing_ok=True)
    if later := sorted(LATER & set(packages)):
        machine.run(*APT, "install", "--download-only", *later)


def _keys(begun, _packages):
    """Copy the DKIM key under its selector, and the certificate, to where the relay has them."""
    given = begun["given"]
    if not machine.is_ip(given["mail_domain"]):
        directory = machine.here(OUR_DKIM)
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        machine.here("/etc/chatmail").chmod(0o755)
        key = machine.here(machine.DKIM_KEY).read_bytes()
        atomic_files.replace(directory / "opendkim.pem", key, mode=0o640, durable=True)
    certificate, key = (machine.here(path) for path in machine.find_certificate(given))
    installing.install(str(certificate), str(key))
    # The relay asks the authority for a certificate of its own when this one ends, not at once.
    mark = installing.TLS / installing.TAKEN_OVER
    atomic_files.replace(mark, certificate.read_bytes(), mode=0o644, durable=True)


def _dovecot(begun, _packages):
    """Install Debian's Dovecot, which reads cmdeploy's configuration, too, and starts again."""
    machine.run("dpkg", "--configure", "-a")
    version = machine.dovecot_versions()[1]
    wanted = [f"{name}={version}" for name in (*machine.DOVECOT, "dovecot-auth-lua")]
    machine.run(*APT, "install", "--allow-downgrades", *wanted)


def _stop(begun, _packages):
    """End the mail service, and everything that cmdeploy runs."""
    noted = begun["before"]["units"]
    units = [unit for unit in (*machine.UNITS, *machine.DAEMONS) if unit in noted]
    # This takes seconds, because systemd reads all units again for each script of System V.
    machine.run("systemctl", "--no-reload", "disable", *units)
    begun.setdefault("stopped", time.time())
    journal.write(begun)
    # OpenDKIM takes seconds to end, and nothing waits for its end.
    unused = [unit for unit in units if unit in machine.UNUSED_DAEMONS]
    machine.run("systemctl", "stop", *(unit for unit in units if unit not in unused))
    if unused:
        machine.run("systemctl", "--no-block", "stop", *unused)


def _mailboxes(begun, _packages):
    """Let the filter see the addresses, and hand over the pending notifications."""
    directory = machine.find_mailboxes(begun["given"])
    mailboxes.open_for_filter(directory)
    vmail = pwd.getpwnam("vmail")
    mailboxes.move_notifications(directory, (vmail.pw_uid, vmail.pw_gid))


def _remove(begun, _packages):
    """Remove the files that cmdeploy made. Copies of them are kept."""
    for path in machine.REMOVED:
        found = machine.here(path)
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)
        # A directory of drop-ins that is empty now is gone, too.
        if path.startswith(machine.SYSTEMD) and path.endswith(".conf"):
            with contextlib.suppress(OSError):
                os.rmdir(found.parent)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "reset-failed")


STEPS = (_keep, _packages, _dovecot, _stop, _keys, _mailboxes, _remove)
