"""When an address was last used: the day, and nothing finer."""

import os
from pathlib import Path

DAY = 24 * 3600


def touch(home: Path, now: float) -> None:
    """Set the time of the address's password file to the beginning of this day, UTC.

    home: the address's directory.
    Only where it differs, so the file changes once a day; also where the address was made today,
    or its minute would stay on record. Raises OSError.
    """
    today = int(now) // DAY * DAY
    password = home / "password"
    if password.stat().st_mtime != today:
        os.utime(password, (today, today))
