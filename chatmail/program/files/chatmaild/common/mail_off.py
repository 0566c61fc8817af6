"""The file that keeps mail off on this machine, whatever the pillar says. Its text is the reason.

`chatmail/settings.py` looks for it, so a converge never switches mail on again.
"""

from pathlib import Path

from chatmaild.common import atomic_files

MAIL_OFF = Path("/etc/chatmail-mail-off")


def read_reason() -> str | None:
    """Return why mail is off on this machine, None when it is not. Raises OSError."""
    try:
        return MAIL_OFF.read_text().strip() or "no reason given"
    except FileNotFoundError:
        return None


def write_reason(reason: str) -> None:
    """Keep mail off from now on, also over a power failure. Raises OSError."""
    atomic_files.replace(MAIL_OFF, f"{reason}\n", mode=0o644, durable=True)
