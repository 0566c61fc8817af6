"""The day on which an address was last used. The relay does not store the time of day."""

import os
from pathlib import Path

DAY = 24 * 3600


def touch(home: Path, now: float) -> None:
    """Set the time of the address's password file to the beginning of this day, UTC.

    home: the directory of the address. now: Unix seconds.
    The file changes at most once a day. It also changes for an address that was created today, so
    that the minute of its creation does not stay. Raises OSError.
    """
    today = int(now) // DAY * DAY
    password = home / "password"
    if password.stat().st_mtime != today:
        os.utime(password, (today, today))
