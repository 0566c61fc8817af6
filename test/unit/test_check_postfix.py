"""check-postfix, which checks a new configuration of Postfix before it comes into its place."""

import os
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "chatmail/postfix/files/check-postfix"


@pytest.fixture
def check(tmp_path):
    """Return a function that runs the program with a stand-in for postconf."""
    programs = tmp_path / "bin"
    programs.mkdir()

    def run(file, code):
        # The program copies files of Postfix, which may be missing here.
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
def test_message_of_postfix_is_shown(check, file, status):
    """Once, the program ended without a message if postconf could not read the file."""
    message = "postconf: fatal: line 3: missing '=' after attribute name"
    done = check(file, f'echo "{message}" >&2; exit {status}')
    assert done.returncode == 1
    assert message in done.stderr


def test_failure_without_a_message_is_a_refusal(check):
    done = check("main.cf", "exit 75")
    assert done.returncode == 1
    assert "postconf failed with status 75" in done.stderr


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("2526 inet n - y - - smtpd -o syslog_name=mine", ""),
        ("smtp unix - - y - - smtpd", ""),
        ("smtp inet n - y - - smtpd", "two services have the name and type: smtp inet\n"),
        ("2526 inet n - y - - nonsense", "Postfix has no program of this name: nonsense\n"),
    ],
)
def test_service_that_cannot_work_is_refused(check, tmp_path, service, message):
    """The program postconf warns of neither, and Postfix misses a program when a client comes."""
    (tmp_path / "smtpd").touch(mode=0o755)
    services = f"smtp inet n - y - - smtpd\n{service}"
    done = check("master.cf", f'case $* in *-M) echo "{services}" ;; *) echo {tmp_path} ;; esac')
    assert (done.returncode, done.stderr) == (1 if message else 0, message)


@pytest.mark.parametrize(("file", "refused"), [("main.cf", False), ("master.cf", True)])
def test_parameter_that_only_the_old_master_cf_uses_is_no_fault_of_the_new_one(
    check, file, refused
):
    warning = f"postconf: warning: /tmp/x/{file}: unused parameter: own=1"
    done = check("master.cf", f'echo "{warning}" >&2')
    assert (done.returncode, warning in done.stderr) == (int(refused), refused)
