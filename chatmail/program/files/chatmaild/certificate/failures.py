"""The last failure, which `chatmail_relay.status` shows."""

import datetime
import json
from pathlib import Path

from chatmaild.common import atomic_files

# This file does not exist when the last attempt succeeded.
FAILURE = Path("/var/lib/chatmail/certificate.json")


def read_failure():
    """Return the last failure, {"time", "error", "missing"}, None after a success."""
    try:
        return json.loads(FAILURE.read_text())
    except FileNotFoundError:
        return None


def record_failure(error, missing):
    """Write the failure to its file, or remove the file when nothing failed.

    error: a text or None. missing: {name: reason} of the names that the certificate lacks.
    """
    if not error and not missing:
        FAILURE.unlink(missing_ok=True)
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    FAILURE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    failure = {"time": now, "error": error, "missing": missing}
    atomic_files.replace(FAILURE, json.dumps(failure), mode=0o644)
