"""check-configuration, which names the operator's own file when its lines are at fault."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "chatmail/host/files/check-configuration"
OWN = """ours = 1
# --- From salt://chatmail_local/main.cf
theirs = 1
bad = 2
# --- End of salt://chatmail_local/main.cf
}
"""
# A checker that refuses a file with the word "bad". Its messages are those of the daemons' own.
CHECKER = """#!/bin/sh
echo a dump of the whole configuration
number=$(grep -m1 -n bad "$2" | cut -d: -f1)
test -z "$number" || { echo "$1" | sed "s,FILE,$2,;s,NUMBER,$number," >&2; exit 7; }
"""


@pytest.fixture
def check(tmp_path):
    """Return a function that checks a text with a checker that has this message."""
    (tmp_path / "checker").write_text(CHECKER)
    (tmp_path / "checker").chmod(0o755)

    def run(text, message):
        (tmp_path / "new").write_text(text)
        command = [sys.executable, PROGRAM, tmp_path / "checker", message, tmp_path / "new"]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    return run


def test_file_that_passes_gives_no_output(check):
    done = check("ours = 1\n", "FILE:NUMBER: unknown")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "message",
    [
        "postconf: fatal: FILE, line NUMBER: missing '=' after attribute name",
        "postconf: fatal: file FILE: line NUMBER: bad field count",
        "postconf: warning: FILE: unused parameter: bad=2",
        "doveconf: Fatal: Error in configuration file FILE line NUMBER: bad: Unknown setting: bad",
        '2026/11/26 20:09:57 [emerg] 5737#5737: unknown directive "bad" in FILE:NUMBER',
        "FILE:NUMBER: error: unknown keyword 'bad'",
    ],
)
def test_line_of_the_operator_is_named(check, message):
    done = check(OWN, message)
    assert done.returncode == 7
    assert "salt://chatmail_local/main.cf, line 2: bad = 2\n" in done.stdout
    assert message.partition("FILE")[0] in done.stdout
    assert "dump" not in done.stdout


def test_file_of_the_operator_is_named_where_no_line_is_known(check):
    """An open brace is noticed at the end of the configuration, behind the operator's lines."""
    done = check(OWN, 'unexpected end of file, expecting "}" in FILE:6')
    assert "salt://chatmail_local/main.cf\n" in done.stdout


def test_fault_of_the_formula_is_not_called_the_operators(check):
    """The message may name a line between the marks by chance."""
    for text in (OWN.replace("ours", "bad"), "bad = 1\n"):
        done = check(text, "FILE:3: unknown")
        assert done.returncode == 7
        assert ":3: unknown" in done.stdout
        assert "operator" not in done.stdout
