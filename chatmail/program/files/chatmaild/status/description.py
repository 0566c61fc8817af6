"""The state of this relay: its settings, units, certificate and keys, and its addresses."""

import re
import subprocess
from pathlib import Path

from chatmaild.accounts.mailboxes import list_addresses
from chatmaild.certificate.failures import read_failure
from chatmaild.certificate.summary import read_certificate
from chatmaild.common.mail_off import read_reason
from chatmaild.dkim.signing_state import read_state
from chatmaild.dovecot_objects.objects import IMAP, IMAP_HIBERNATE, IMAP_LOGIN, Object
from chatmaild.status.limits import list_limits

# The units of a relay, besides its own services, which the settings list.
UNITS = (
    "chatmail-iroh",
    "chatmail-metrics",
    "coturn",
    "dovecot",
    "nginx",
    "postfix",
    "unbound",
)
# The configurations into which a converge writes lines of the operator's own (docs/local.md).
CONFIGURATIONS = (
    Path("/etc/dovecot/dovecot.conf"),
    Path("/etc/nginx/nginx.conf"),
    Path("/etc/postfix/main.cf"),
    Path("/etc/postfix/master.cf"),
    Path("/etc/unbound/unbound.conf"),
)
# The mark that chatmail/host/local_lines.jinja writes before these lines.
MARK = re.compile(r"^\s*# --- From salt://(chatmail_local/\S+)", re.M)


def describe(settings: dict) -> dict:
    """Return the state of this relay in the form that `chatmail_relay.status` describes.

    The versions of Salt and of packages are missing here, because Salt knows them.
    """
    return {
        "domain": settings["mail_domain"],
        "form": settings["form"],
        "tls_mode": settings["tls_mode"],
        "addresses": _count_addresses(settings),
        "mail_off": read_reason(),
        "units": find_units(settings),
        "unit_restarts": count_restarts(settings),
        "certificate": read_certificate(settings["tls_certificate"]),
        "certificate_failure": read_failure(),
        "dkim_selectors": [key["selector"] for key in read_state()["selectors"]],
        "registration": settings["registration"],
        "limits": list_limits(settings),
        "imap_notify": _describe_object(
            settings, IMAP, "a connected client hears of a message at once"
        ),
        "imap_idle": _describe_object(
            settings, IMAP_HIBERNATE, "an idle client hears of a message as soon as an active one"
        ),
        "imap_memory": _describe_object(
            settings, IMAP_LOGIN, "an idle client takes little memory, and gives it back"
        ),
        "local_files": list_local_files(),
        "versions": {"debian": settings["debian_release"]},
    }


def list_local_files() -> list[str]:
    """Return the operator's own files whose lines are in the configurations of this relay."""
    texts = [path.read_text(errors="replace") for path in CONFIGURATIONS if path.exists()]
    return [name for text in texts for name in MARK.findall(text)]


def _count_addresses(settings: dict) -> int:
    try:
        return sum(1 for _ in list_addresses(settings))
    except FileNotFoundError:
        return 0


def _describe_object(settings: dict, each: Object, with_it: str) -> str:
    if each.file.exists():
        return with_it
    if not settings["imap_notify"]:
        return f"{each.without}, as the setting says"
    return (
        f"{each.without}, because the object for Dovecot's {each.program} is missing. "
        "`salt-call --local state.apply chatmail.dovecot_objects` says why"
    )


def find_units(settings: dict) -> dict[str, str]:
    """Return the state of each installed unit of the relay: {unit: "active", "failed", …}."""
    return {name: unit["ActiveState"] for name, unit in _ask_systemd(settings).items()}


def count_restarts(settings: dict) -> dict[str, int]:
    """Return the units whose service ended by itself: {unit: how often it had to start again}.

    systemd counts from the last start of the machine, or of the unit by somebody.
    """
    counts = {name: int(unit["NRestarts"]) for name, unit in _ask_systemd(settings).items()}
    return {name: count for name, count in counts.items() if count}


def _ask_systemd(settings: dict) -> dict[str, dict[str, str]]:
    """Return the properties of each installed unit of the relay."""
    own = [f"chatmail-{name}" for name in settings.get("services", ())]
    names = [f"{name}.service" for name in (*own, *UNITS)]
    units = {}
    for block in _show_units(names).split("\n\n"):
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        if unit.get("LoadState") == "loaded":
            units[unit["Id"].removesuffix(".service")] = unit
    return units


def _show_units(names: list[str]) -> str:
    properties = "--property=Id,LoadState,ActiveState,NRestarts"
    command = ["systemctl", "show", properties, *names]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
