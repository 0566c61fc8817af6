"""Why a machine cannot be taken over: it is not one of cmdeploy's, or only half of one."""

import os

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from chatmaild.adopt import machine
from chatmaild.certificate.summary import read_pair
from chatmaild.common.errors import OperatorError

SETTINGS = "/etc/chatmail/relay.json"
# The packages, their download and the copies take half of it.
NEEDED_BYTES = 500 << 20
RUN_AGAIN = "finish it with `cmdeploy run` on the operator's computer"


def find(given, listeners, states):
    """Return a sentence for each problem, [] for a machine that can be taken over.

    given: the lines of chatmail.ini. listeners: what `chatmail_relay.ports` returns. states: what
    `machine.unit_states` returns. Each sentence says what was found, what is expected, what to do.
    """
    problems = [*_find_half_runs(), *_find_stopped(states), *_find_foreign(listeners)]
    problems += _find_little_space()
    domain = given["mail_domain"]
    if not machine.is_ip(domain):
        problems += _find_key_problems()
    try:
        read_pair(*(str(machine.here(path)) for path in machine.find_certificate(given)))
    except OperatorError as error:
        problems.append(f"certificate: {error}. Let cmdeploy make it first")
    return problems


def _find_half_runs():
    if machine.here(SETTINGS).exists():
        yield f"{SETTINGS} exists: this machine is a relay of the formula already"
    release = _read_release()
    if release != "12":
        yield f"operating system: found Debian {release}, expected Debian 12, as cmdeploy wants it"
    if machine.here("/usr/sbin/policy-rc.d").exists():
        yield (
            "/usr/sbin/policy-rc.d exists: a run of cmdeploy was cut off, and no package starts "
            f"its service any more; {RUN_AGAIN}, or remove the file"
        )
    if broken := machine.run("dpkg", "--audit", check=False).strip():
        yield f"dpkg --audit: {broken.splitlines()[0]} Run `dpkg --configure -a`"
    if machine.here("/home/vmail/passdb.sqlite").exists():
        yield (
            "/home/vmail/passdb.sqlite exists: the passwords are not in files yet, as they are "
            "since 2024; upgrade with `cmdeploy run` first"
        )


def _read_release():
    try:
        lines = machine.here("/etc/os-release").read_text().splitlines()
    except OSError:
        return "unknown"
    found = [line.partition("=")[2].strip('"') for line in lines if line.startswith("VERSION_ID=")]
    return found[0] if found else "unknown"


def _find_stopped(states):
    for unit in ("postfix.service", "dovecot.service", "doveauth.service"):
        state = states.get(unit)
        if state is None:
            yield f"{unit}: found none, expected the unit that cmdeploy sets up; {RUN_AGAIN}"
        elif (state["enabled"], state["active"]) != ("enabled", "active"):
            yield (
                f"{unit} is {state['enabled']} and {state['active']}, expected enabled and active: "
                f"after `cmdeploy run --disable-mail` a move is under way, which has to end first; "
                f"otherwise {RUN_AGAIN}"
            )


def _find_foreign(listeners):
    known = {*machine.UNITS, *machine.DAEMONS}
    for each in listeners:
        unit = each["unit"] or ""
        instance = unit.partition("@")[0] + ".service" if "@" in unit else unit
        if instance not in known:
            yield (
                f"port {each['port']}/{each['proto']} is held by {each['process'] or 'a process'} "
                f"({unit or 'no unit'}), which cmdeploy does not set up: stop, disable or move it"
            )


def _find_little_space():
    # Both are on one file system on most machines.
    places = {os.stat(machine.here(path)).st_dev: path for path in ("/usr", "/var")}
    for path in places.values():
        found = os.statvfs(machine.here(path))
        free = found.f_bavail * found.f_frsize
        if free < NEEDED_BYTES:
            yield (
                f"disk: {path} has {free >> 20} MB free, expected {NEEDED_BYTES >> 20} MB for "
                "packages and copies: make room, for example with `apt-get clean`"
            )


def _find_key_problems():
    path = machine.here(machine.DKIM_KEY)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if isinstance(key, rsa.RSAPrivateKey):
            return []
        found = "another kind of key"
    except (OSError, ValueError, TypeError) as error:
        found = getattr(error, "strerror", None) or "no private key without a passphrase"
    return [f"{machine.DKIM_KEY}: found {found}, expected an RSA key in PEM form; {RUN_AGAIN}"]
