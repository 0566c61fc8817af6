"""The inner side of a door: answers the one request of a Salt module.

A request is a JSON object on standard input, where nobody else on the machine sees it:

`do`: name of the command.
`arguments`: the command's arguments by name.
`settings`: the relay's settings, or the path of their file; the usual file if it is missing.

The answer on standard output is `{"result": value}` or `{"error": text}`, with `"invalid": true`
in it when an argument is at fault.
"""

import json
import sys
from collections.abc import Callable

from chatmaild.common.errors import InvalidRequest, OperatorError
from chatmaild.common.settings import SETTINGS, load_settings


def answer(commands: dict[str, Callable]) -> None:
    """Read the request, call the command with the settings and its arguments, print the answer."""
    request = json.load(sys.stdin)
    try:
        settings = request.get("settings", SETTINGS)
        if isinstance(settings, str):
            settings = load_settings(settings)
        if request["do"] not in commands:
            raise OperatorError(
                f"the program knows no command {request['do']!r}, it is of another release than "
                "the Salt modules: run `salt-call state.apply chatmail.program`"
            )
        told = {"result": commands[request["do"]](settings, **request.get("arguments", {}))}
    except InvalidRequest as error:
        told = {"error": str(error), "invalid": True}
    except OperatorError as error:
        told = {"error": str(error)}
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        told = {"error": f"{where}{error.strerror or error}"}
    json.dump(told, sys.stdout)
