"""An old and a new machine in two directories, for a copy with a real rsync.

A script stands for SSH.
"""

import sys
from pathlib import Path

from chatmaild.common import mail_off
from chatmaild.inventory import places
from chatmaild.move import checking, receiving

PACKAGE = Path(__file__).parents[2] / "chatmail/program/files"
HOST_KEY = "ssh-ed25519 " + "A" * 68
# sshd hands the command line over like this, and runs the key's own command.
SSH = """#!/bin/sh
while [ "$1" != 192.0.2.6 ]; do shift; done
shift
SSH_ORIGINAL_COMMAND="$*" exec {python} -c '{program}'
"""
PROGRAM = """
import os, sys
sys.path.insert(0, "{package}")
from chatmaild.move import sending
try:
    command = sending.allowed_command(os.environ["SSH_ORIGINAL_COMMAND"], {paths})
except sending.OperatorError as error:
    sys.exit(str(error))
os.execvp(command[0], command)
"""


def make(tmp_path, monkeypatch):
    """Return the directory of the old machine's mail, and where the new machine has it."""
    old, new = tmp_path / "old", tmp_path / "new"
    mail, keys, accounts = old / "mail", old / "keys", old / "accounts"
    renewal = old / "renewal.conf"
    for directory in (mail, keys, accounts, new):
        directory.mkdir(parents=True)
    paths = sorted([*map(str, (mail, keys, accounts, renewal)), str(old / "nocreate")])
    monkeypatch.setattr(places, "list_paths", lambda _settings, _last: paths)
    monkeypatch.setattr(places, "ACCOUNTS", str(accounts).lstrip("/"))
    monkeypatch.setattr(checking, "CHECKED", (str(keys), str(renewal)))
    monkeypatch.setattr(places, "RENEWAL", str(renewal).lstrip("/"))
    monkeypatch.setattr(receiving, "ROOT", f"{new}/")
    monkeypatch.setattr(receiving, "DIRECTORY", tmp_path)
    monkeypatch.setattr(receiving, "_find_reachable", lambda _addresses: "192.0.2.6")
    monkeypatch.setattr(mail_off, "MAIL_OFF", tmp_path / "mail-off")
    mail_off.write_reason("this relay comes here from old")
    program = PROGRAM.format(package=PACKAGE, paths=paths).replace("'", '"')
    script = tmp_path / "ssh"
    script.write_text(SSH.format(python=sys.executable, program=program))
    script.chmod(0o755)
    monkeypatch.setattr(receiving, "_ssh", lambda: str(script))
    return mail, Path(f"{new}{mail}")


def copy(last=False):
    """Copy from the old machine."""
    return receiving.copy({"tls_mode": "self_signed"}, HOST_KEY, ["192.0.2.6"], last)
