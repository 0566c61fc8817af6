"""check-postfix, which looks at a new configuration of Postfix before it is put in its place."""

import os
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "chatmail/postfix/files/check-postfix"


@pytest.fixture
def check(tmp_path):
    """Return a function that runs the program with a postconf that runs some code."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def run(file, code):
        # There may be no Postfix here, whose files the program copies.
        for name, text in (("postconf", code), ("cp", "exit 0")):
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
        command = ["/bin/sh", PROGRAM, file, tmp_path / "new"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)

    return run


@pytest.mark.parametrize("file", ["main.cf", "master.cf"])
def test_file_without_warnings_passes(check, file):
    done = check(file, "echo 'queue_directory = /var/spool/postfix'")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", ["main.cf", "master.cf"])
@pytest.mark.parametrize("status", [0, 1])
def test_refusal_of_postfix_is_told(check, file, status):
    """A file that postconf cannot read ended the program before it could say why."""
    said = "postconf: fatal: line 3: missing '=' after attribute name"
    done = check(file, f'echo "{said}" >&2; exit {status}')
    assert done.returncode == 1
    assert said in done.stderr


def test_failure_without_a_word_is_a_refusal(check):
    done = check("main.cf", "exit 75")
    assert done.returncode == 1
    assert "postconf failed with status 75" in done.stderr
