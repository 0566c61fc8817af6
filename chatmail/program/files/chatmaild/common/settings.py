"""The relay's settings, as the last converge wrote them for the services."""

import json
from pathlib import Path

SETTINGS = Path("/etc/chatmail/relay.json")


def load_settings(path: Path = SETTINGS) -> dict:
    """Return the relay's settings, as `chatmail/settings.py` resolved them.

    path: the JSON file that the converge wrote.
    Raises OSError or ValueError; a service without settings does not start.
    """
    return json.loads(Path(path).read_text())
