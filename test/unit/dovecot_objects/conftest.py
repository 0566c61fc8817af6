"""Runs C programs with an object of the formula, and with stand-ins for what the object calls."""

import subprocess
from pathlib import Path

import pytest
from chatmaild.dovecot_objects.building import compile_object

SOURCES = Path(__file__).parents[3] / "chatmail/dovecot_objects/files"


@pytest.fixture
def with_object(tmp_path):
    """Return a function that returns a function, which runs C statements with the object.

    The first one takes the name of the object, the C source of the stand-ins, and that of a program
    with %s for the statements. The second one returns the lines that the statements print.
    """

    def compile_c(text, *arguments):
        command = ["gcc", "-x", "c", "-", *arguments]
        subprocess.run(command, input=text, text=True, check=True)

    def prepare(name, stand_ins, template):
        loaded, library, program = (
            tmp_path / each for each in (f"{name}.so", "libstandins.so", "program")
        )
        compile_object(SOURCES / f"{name}.c", loaded)
        compile_c(stand_ins, "-shared", "-fPIC", "-o", library)

        def run(statements):
            compile_c(template % statements, "-o", program, "-x", "none", library)
            done = subprocess.run(
                ["timeout", "20", program],
                env={"LD_PRELOAD": str(loaded), "LD_LIBRARY_PATH": str(tmp_path)},
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout.splitlines()

        return run

    return prepare
