"""The relay's settings, from the file that the last converge wrote."""

import json

from chatmaild.common.errors import OperatorError

SETTINGS = "/etc/chatmail/relay.json"


def load_settings(path: str = SETTINGS) -> dict:
    """Return the relay's settings, which `chatmail/settings.py` resolved.

    path: the JSON file that the converge wrote.
    Raises OperatorError when the file cannot be read, so that a service does not start without it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise OperatorError(
            f"cannot read the relay's settings in {path}: {error}. "
            "Run `salt-call state.apply chatmail` first."
        ) from error
