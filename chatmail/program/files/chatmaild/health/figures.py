"""The figures that a master shows of each relay, beside the verdict of the check."""

import datetime
import os

from chatmaild.certificate.summary import read_certificate
from chatmaild.health.machine import ask_program, idle_units, list_queue, wanted_units
from chatmaild.health.running import Failed
from chatmaild.status.description import find_units


def find(settings: dict) -> dict:
    """Return {"queue": messages, "disk_free": percent, "expired": the last nightly run, UTC}.

    A figure is None when its program does not answer, and `expired` before the first run.
    """
    return {
        "queue": _try(lambda: len(list_queue())),
        "disk_free": _try(lambda: _percent_free(settings["mailboxes_dir"])),
        "expired": _try(_last_expiry),
    }


def watch(settings: dict) -> dict:
    """Return the figures that the beacon looks at. They cost no mail and no address.

    {"stopped_units": a number, "certificate_days": until its end, "queue": messages, "disk_free":
    percent}. A figure is None when it is unknown, `certificate_days` before the first certificate.
    """
    units = find_units(settings)
    certificate = read_certificate(settings["tls_certificate"]) or {}
    return {
        "stopped_units": len(idle_units(wanted_units(settings, units), units)),
        "certificate_days": certificate.get("days_left"),
        "queue": _try(lambda: len(list_queue())),
        "disk_free": _try(lambda: _percent_free(settings["mailboxes_dir"])),
    }


def _try(ask):
    try:
        return ask()
    except (Failed, OSError):
        return None


def _percent_free(path: str) -> int:
    found = os.statvfs(path)
    return 100 * found.f_bavail // found.f_blocks


def _last_expiry() -> str | None:
    """Return when the timer last started the nightly run. It remembers this over a reboot."""
    shown = ask_program(
        *("systemctl", "show", "--timestamp=unix", "--value", "--property=LastTriggerUSec"),
        "chatmail-expire.timer",
    )
    return format_time(shown)


def format_time(shown: str) -> str | None:
    """Return a time of systemd, such as @1764174712, as 2025-11-26T16:31Z; None without one."""
    seconds = shown.strip().removeprefix("@")
    if not seconds.isdecimal() or seconds == "0":
        return None
    moment = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%MZ")
