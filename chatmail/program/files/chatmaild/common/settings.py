"""The relay's settings, as the last converge wrote them for the services."""

import json

from chatmaild.common.errors import OperatorError

SETTINGS = "/etc/chatmail/relay.json"


def load_settings(path: str = SETTINGS) -> dict:
    """Return the relay's settings, as `chatmail/settings.py` resolved them.

    path: the JSON file that the converge wrote.
    Raises OperatorError when it cannot be read; a service without settings does not start.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise OperatorError(
            f"cannot read the relay's settings in {path}: {error}. Apply the chatmail state first."
        ) from error
