"""Mail off and on again on this machine, without a converge."""

import json
import time
from pathlib import Path

from chatmaild.common import atomic_files, mail_off
from chatmaild.common.programs import run

MAIN_CF = Path("/etc/postfix/main.cf")
# Debian 12 runs Postfix in an instance of this second unit.
POSTFIX = ("postfix.service", "postfix@-.service")
UNITS = ("dovecot.service", "postfix.service")
# Seconds for messages whose delivery has begun: all but those to a server that hangs. Postfix ends
# later ones in the middle, and the next delivery may then send such a message a second time.
PATIENCE = 3


def switch_off(reason: str) -> dict:
    """Keep mail off, and stop Postfix and Dovecot; return {"mail_off", "changed", "seconds"}.

    reason: a text in one line. Postfix first takes nothing new and finishes what it is delivering.
    `seconds` is the time since then. Raises OperatorError when a program does not stop.
    """
    before = mail_off.read_reason()
    mail_off.write_reason(reason)
    # This takes seconds, and mail works meanwhile.
    _control("disable", *UNITS)
    began = time.monotonic()
    stopped = [unit for unit in UNITS if _is_active(unit)]
    if "postfix.service" in stopped:
        _stop_postfix()
    _control("stop", "dovecot.service", *POSTFIX)
    return _describe(reason, before != reason or bool(stopped), began)


def switch_on() -> dict:
    """Allow mail again, and start Dovecot and Postfix; return {"mail_off", "changed", "seconds"}.

    `seconds` is the time since they have started. Raises OperatorError when one does not start.
    """
    before = mail_off.read_reason()
    mail_off.MAIL_OFF.unlink(missing_ok=True)
    idle = [unit for unit in UNITS if not _is_active(unit)]
    _control("start", *UNITS)
    began = time.monotonic()
    _control("enable", *UNITS)
    return _describe(None, before is not None or bool(idle), began)


def _describe(reason, changed, began):
    seconds = round(time.monotonic() - began, 1)
    return {"mail_off": reason, "changed": changed, "seconds": seconds}


def _stop_postfix():
    """Let Postfix close its ports and finish its deliveries, and stop it."""
    original = MAIN_CF.read_bytes()
    try:
        run("postconf", "-e", "master_service_disable = inet")
        run("postfix", "reload")
        deadline = time.monotonic() + PATIENCE
        while _is_delivering() and time.monotonic() < deadline:
            time.sleep(0.05)
        _control("stop", *POSTFIX)
    finally:
        atomic_files.replace(MAIN_CF, original, mode=0o644)


def _is_delivering():
    """Return whether messages are in a stage that takes a moment only."""
    shown = run("postqueue", "-j").stdout.splitlines()
    return any(json.loads(line)["queue_name"] in ("active", "incoming") for line in shown)


def _is_active(unit):
    return run("systemctl", "is-active", "--quiet", unit, check=False).returncode == 0


def _control(verb, *units):
    """Let systemctl do something with those of the units that exist."""
    question = ("systemctl", "show", "--property=LoadState", "--value")
    shown = run(*question, *units, check=False).stdout.split()
    there = [unit for unit, state in zip(units, shown, strict=False) if state != "not-found"]
    if there:
        run("systemctl", verb, *there)
