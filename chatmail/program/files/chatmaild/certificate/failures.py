"""What failed last, kept for `chatmail_relay.status`."""

import datetime
import json
from pathlib import Path

from chatmaild.common import atomic_files

# What failed last; absent when all is well. `chatmail_relay.status` shows it.
FAILURE = Path("/var/lib/chatmail/certificate.json")


def record_failure(error, missing):
    """Keep what failed for `chatmail_relay.status`, or forget it."""
    if not error and not missing:
        FAILURE.unlink(missing_ok=True)
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    FAILURE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    failure = {"time": now, "error": error, "missing": missing}
    atomic_files.replace(FAILURE, json.dumps(failure), mode=0o644)
