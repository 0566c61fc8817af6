"""The inner side of a door: answers one request of a Salt module.

The request is a JSON object on standard input, where no other user of the machine can read it:

`do`: name of the command.
`arguments`: the command's arguments by name.
`settings`: the relay's settings, or the path of a file with the settings. Without this key, the
    settings come from the file that the last converge wrote.

The answer is a JSON object on standard output: `{"result": value}` or `{"error": text}`. An error
that a wrong argument caused has `"invalid": true` too.
"""

import json
import sys
from collections.abc import Callable

from chatmaild.common.errors import InvalidRequest, OperatorError
from chatmaild.common.settings import SETTINGS, load_settings


def answer(commands: dict[str, Callable]) -> None:
    """Read the request, call its command with the settings and the arguments, print the answer.

    commands: the functions of this part of the program, by the names that requests use.
    """
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
        reply = {"result": commands[request["do"]](settings, **request.get("arguments", {}))}
    except InvalidRequest as error:
        reply = {"error": str(error), "invalid": True}
    except OperatorError as error:
        reply = {"error": str(error)}
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reply = {"error": f"{where}{error.strerror or error}"}
    json.dump(reply, sys.stdout)
