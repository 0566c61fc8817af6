"""The way back: what cmdeploy set up is put back as it was, until the first night.

The Salt function has removed the relay with `state.apply chatmail.clean` before. Each step can run
again, so an interrupted `undo` is run again.
"""

import glob
import shutil
import time

from chatmaild.adopt import journal, machine, planning, problems
from chatmaild.common.errors import OperatorError


def check(_settings):
    """Refuse to go back where that is impossible. Changes nothing. Raises OperatorError.

    Returns the version of Dovecot that will be put back.
    """
    begun = journal.read()
    if begun is None:
        raise OperatorError(f"{journal.DIRECTORY} has no take-over that could be undone")
    if time.time() > planning.last_moment(begun):
        raise OperatorError(
            "the first night has passed: the relay may have removed mail since. Go on with the "
            "relay, or restore the machine from a backup"
        )
    version = begun["before"]["dovecot"]
    if version not in machine.dovecot_versions() and not _find_packages():
        raise OperatorError(
            f"Dovecot {version} was installed, and /root/dovecot-*.deb are gone: put the three "
            "packages there (dovecot-core, dovecot-imapd, dovecot-lmtpd), then run undo again"
        )
    return version


def undo(settings):
    """Put the machine back as it was; return {"started": units}.

    Mail, addresses and device tokens of the time between stay. Raises OperatorError.
    """
    with journal.locked():
        return _undo(settings)


def _undo(settings):
    check(settings)
    if machine.here(problems.SETTINGS).exists():
        raise OperatorError(
            f"{problems.SETTINGS} exists: the relay is still there. `chatmail_adopt.undo` removes "
            "it first, with `state.apply chatmail.clean`"
        )
    begun = journal.read()
    _put_dovecot_back(begun["before"]["dovecot"])
    # Before this step ended, nothing was removed, and a copy may be incomplete.
    if "keep" in begun["done"]:
        for path in (*machine.REPLACED, *machine.REMOVED, _pending(begun)):
            _put_back(path)
    machine.run("usermod", "--shell", begun["before"]["shell"], "vmail")
    machine.run("systemctl", "daemon-reload")
    started = _start(begun["before"]["units"])
    shutil.rmtree(machine.here(journal.DIRECTORY))
    return {"started": started}


def _find_packages():
    """Return the paths of cmdeploy's own packages of Dovecot, [] when one is missing."""
    found = [
        path
        for name in machine.DOVECOT
        for path in glob.glob(str(machine.here(f"/root/{name}_*.deb")))
    ]
    return found if len(found) == len(machine.DOVECOT) else []


def _put_dovecot_back(version):
    # An interrupted run may have left packages that are not configured.
    machine.run("dpkg", "--configure", "-a")
    if machine.dovecot_versions()[0] == version:
        return
    # Debian's package needs exactly Debian's version of dovecot-core.
    machine.run("apt-get", "-q", "-y", "remove", "dovecot-auth-lua")
    machine.run("dpkg", "--force-confold", "-i", *_find_packages())


def _pending(begun):
    return f"{machine.find_mailboxes(begun['given'])}/pending_notifications"


def _put_back(path):
    """Copy a kept file or directory back, with owners, modes and times."""
    kept = journal.files() / path.lstrip("/")
    if not kept.exists() and not kept.is_symlink():
        return
    target = machine.here(path)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    # A file of the relay may be where a link was.
    if kept.is_symlink() or target.is_symlink():
        target.unlink(missing_ok=True)
    # The user of the mail may have put a link in the place of a file meanwhile.
    machine.run("cp", "-aT", "--remove-destination", str(kept), str(target))


def _start(noted):
    """Enable and start the units as they were; return those that were started."""
    enabled = [unit for unit, state in noted.items() if state["enabled"] == "enabled"]
    machine.run("systemctl", "enable", *enabled)
    active = [unit for unit, state in noted.items() if state["active"] == "active"]
    # A daemon that runs has read the relay's configuration.
    machine.run("systemctl", "restart", *active)
    return active
