"""The steps about the machine: units, disk, clock, queue, expiry, certificate, updates."""

import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from chatmaild.accounts.limits import MIN_FREE_INODES
from chatmaild.certificate.failures import read_failure
from chatmaild.certificate.summary import read_certificate
from chatmaild.common import programs
from chatmaild.common.errors import OperatorError
from chatmaild.common.mail_off import read_reason
from chatmaild.health.running import Failed, NotAsked, State
from chatmaild.status.description import count_restarts, find_units

QUEUE = "/var/spool/postfix"
REBOOT_REQUIRED = Path("/run/reboot-required")
# Seconds for one program of the machine.
PATIENCE = 10
# Seconds. Postfix tries again after 30 s, so mail for this relay does not wait longer for Dovecot.
STUCK = 180
# A certificate of an authority is renewed when it has 30 days left.
MIN_DAYS = 14
# The mail server. `mail: false` stops it.
MAIL = ("dovecot", "postfix")
# A line of `apt-get -s upgrade` about a package from a suite such as stable-security.
SECURITY_UPDATE = re.compile(r"^Inst .*\bDebian-Security:", re.MULTILINE)


def ask_program(*command: str) -> str:
    """Return the output of a program. Raises Failed without it, and when it fails."""
    try:
        return programs.run(*command, timeout=PATIENCE).stdout
    except OperatorError as error:
        raise Failed(str(error)) from None


def units(state: State) -> str:
    """Every unit of the relay runs."""
    state.units = find_units(state.settings)
    wanted = wanted_units(state.settings, state.units)
    if idle := idle_units(wanted, state.units):
        raise Failed(f"{', '.join(idle)}; expected: active")
    why = read_reason() or "mail: false in the pillar"
    rest = "" if state.settings["mail"] else f" (Dovecot and Postfix are off: {why})"
    for name, count in count_restarts(state.settings).items():
        # The relay works, so this fails nothing.
        rest += f"; {name} ended by itself, and was started again {count} times"
    return f"{len(wanted)} units are active{rest}"


def wanted_units(settings: dict, found: dict[str, str]) -> set[str]:
    """Return the names of the units that have to run. found: the state of each installed one."""
    wanted = {*found, *(f"chatmail-{name}" for name in settings["services"])}
    wanted |= {"coturn", "nginx", "unbound", *MAIL}
    if settings["iroh_relay"] is None:
        wanted.add("chatmail-iroh")
    return wanted if settings["mail"] else wanted - set(MAIL)


def idle_units(wanted: Iterable[str], found: dict[str, str]) -> list[str]:
    """Return what is wrong with each of the wanted units that does not run."""
    return [
        f"{name} is {found.get(name, 'not installed')}"
        for name in sorted(wanted)
        if found.get(name) != "active"
    ]


def disk(state: State) -> str:
    """There is room for mail and for the queue."""
    settings = state.settings
    room = []
    for path, limit, setting in (
        (settings["mailboxes_dir"], settings["min_free_disk_space"], "min_free_disk_space"),
        (QUEUE, settings["submission_min_free"], "what submission needs"),
    ):
        found = os.statvfs(path)
        free = found.f_bavail * found.f_frsize
        if free < limit:
            raise Failed(f"{path} has {free} bytes free; expected: {limit} or more ({setting})")
        # Btrfs has no fixed number of inodes and shows 0.
        if found.f_files and found.f_favail < MIN_FREE_INODES:
            raise Failed(f"{path} has {found.f_favail} inodes free; expected: {MIN_FREE_INODES}")
        room.append(f"{path} has {free // 2**20} MiB free")
    return ", ".join(room)


def clock(_state: State) -> str:
    """A time service has set the clock. DKIM, TLS and TURN depend on it."""
    shown = ask_program("timedatectl", "show", "--property=NTP", "--property=NTPSynchronized")
    found = dict(line.partition("=")[::2] for line in shown.splitlines())
    if found.get("NTPSynchronized") == "yes":
        return "synchronized"
    if found.get("NTP") != "yes":
        raise NotAsked("systemd knows no time service here, such as in a container")
    raise Failed("a time service runs and has not set the clock; expected: synchronized")


def list_queue() -> list[dict]:
    """Return the messages in Postfix's queue, as `postqueue -j` shows them."""
    return [json.loads(line) for line in ask_program("postqueue", "-j").splitlines()]


def queue(state: State) -> str:
    """Mail for this relay does not wait, and no mail is on hold."""
    waiting = list_queue()
    held = sum(message["queue_name"] == "hold" for message in waiting)
    if held:
        raise Failed(f"messages on hold: {held}; expected: none (`postsuper -H ALL` releases them)")
    stuck = find_stuck(waiting, state.settings["address_domain"], time.time())
    if stuck:
        raise Failed(
            f"messages for this relay's own addresses that wait longer than {STUCK} s: "
            f"{len(stuck)}; expected: none"
        )
    return f"messages that wait: {len(waiting)}"


def find_stuck(waiting: Iterable[dict], own_domain: str, now: float) -> list[dict]:
    """Return the messages that Dovecot should have long taken.

    Mail for other servers may wait, because they may be down.
    """
    return [
        message
        for message in waiting
        if now - message["arrival_time"] > STUCK
        and any(each["address"].endswith(f"@{own_domain}") for each in message["recipients"])
    ]


def expiry(_state: State) -> str:
    """The last nightly run succeeded, and the next one will come."""
    result = _show("chatmail-expire.service", "Result")
    if result != "success":
        raise Failed(f"the last run ended with {result!r}; expected: 'success'")
    state = _show("chatmail-expire.timer", "ActiveState")
    if state != "active":
        raise Failed(f"chatmail-expire.timer is {state!r}; expected: 'active'")
    return "the last run succeeded"


def _show(unit: str, name: str) -> str:
    """Return a property of a unit."""
    return ask_program("systemctl", "show", "--value", f"--property={name}", unit).strip()


def certificate(state: State) -> str:
    """The certificate in the file is valid for the domain, and for some days more."""
    settings = state.settings
    path, domain = settings["tls_certificate"], settings["mail_domain"]
    found = read_certificate(path)
    if found is None:
        raise Failed(f"{path} does not exist")
    if settings["tls_mode"] != "self_signed" and found["self_signed"]:
        failure = (read_failure() or {}).get("error", "no attempt is known to have failed")
        raise Failed(f"{path} is self-signed; expected: one from an authority ({failure})")
    if domain not in found["names"]:
        raise Failed(f"{path} is for {', '.join(found['names'])}; expected: {domain}")
    if found["days_left"] < MIN_DAYS:
        raise Failed(f"{path} expires in {found['days_left']} days; expected: {MIN_DAYS} at least")
    return f"{found['days_left']} days left"


def updates(_state: State) -> str:
    """A figure, which is never a fault: the security updates that wait, and a reboot."""
    try:
        shown = ask_program("apt-get", "-s", "-o", "Debug::NoLocking=true", "upgrade")
    except Failed as error:
        raise NotAsked(str(error)) from None
    waiting = len(SECURITY_UPDATE.findall(shown))
    reboot = "; a reboot is due" if REBOOT_REQUIRED.exists() else ""
    return f"security updates that wait: {waiting}{reboot}"
