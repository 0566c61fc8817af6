"""The relay's program, run in the tests' own process, so that a test may change its constants."""

import contextlib
import importlib
import io
import unittest.mock
from pathlib import Path
from types import SimpleNamespace

from chatmaild.common.commands import answer

# Put below the door's own code, this lets it ask the program here.
CODE = """

def _run(command, request, user):
    from support import in_process

    return in_process.run(command, request)
"""


def run(command, request):
    """Answer a request as the command `python3 -m chatmaild.<part>.commands` does."""
    commands = importlib.import_module(command[-1])
    with (
        unittest.mock.patch("sys.stdin", io.StringIO(request)),
        contextlib.redirect_stdout(io.StringIO()) as told,
    ):
        answer(commands.COMMANDS)
    return SimpleNamespace(stdout=told.getvalue(), stderr="", returncode=0)


def answer_in_process(salt_opts):
    """Let the door in Salt's options ask the program in the tests' own process."""
    door = Path(salt_opts["extension_modules"]) / "modules" / "chatmail_program.py"
    door.write_text(door.read_text() + CODE)
