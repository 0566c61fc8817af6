"""Runs the relay's program in the process of the tests, so that a test can change constants."""

import contextlib
import importlib
import io
import unittest.mock
from pathlib import Path
from types import SimpleNamespace

from chatmaild.common.commands import answer

# Appended to `chatmail_program`, this replaces the function that starts the program.
CODE = """

def _run(command, request, user):
    from support import in_process

    return in_process.run(command, request)
"""


def run(command, request):
    """Answer a request as `python3 -m chatmaild.<part>.commands` does."""
    commands = importlib.import_module(command[-1])
    with (
        unittest.mock.patch("sys.stdin", io.StringIO(request)),
        contextlib.redirect_stdout(io.StringIO()) as output,
    ):
        answer(commands.COMMANDS)
    return SimpleNamespace(stdout=output.getvalue(), stderr="", returncode=0)


def answer_in_process(salt_opts):
    """Let the module `chatmail_program` of these options run the program in this process."""
    door = Path(salt_opts["extension_modules"]) / "modules" / "chatmail_program.py"
    door.write_text(door.read_text() + CODE)
