"""Fixtures for the tests of the certificate module and states."""

import shutil
import subprocess
import types

import pytest
from chatmaild.certificate import certbot as certbot_part
from chatmaild.certificate import failures, installing
from support import in_process
from support.certificates import NAMES, PROBLEM, SETTINGS


@pytest.fixture
def salt_opts(salt_opts):
    """Let the door ask the program in this process."""
    in_process.answer_in_process(salt_opts)
    return salt_opts


@pytest.fixture
def pair(tmp_path):
    return {"name": str(tmp_path / "fullchain.pem"), "key": str(tmp_path / "privkey.pem")}


@pytest.fixture
def self_signed(salt_states, pair):
    def call(test=False, names=NAMES, **arguments):
        return salt_states(
            "chatmail_certificate.self_signed", test=test, subject_names=names, **pair, **arguments
        )

    return call


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Let the program use paths of the test, and reload no daemon. Return the values by name."""
    places = {
        "TLS": (installing, tmp_path / "tls"),
        "CERTBOT": (certbot_part, tmp_path / "letsencrypt"),
        "FAILURE": (failures, tmp_path / "failure.json"),
        "DNS_CREDENTIALS": (certbot_part, tmp_path / "rfc2136.ini"),
        "DAEMONS": (installing, ()),
    }
    for name, (part, value) in places.items():
        monkeypatch.setattr(part, name, value)
    return {name: value for name, (_, value) in places.items()}


@pytest.fixture
def make(salt_states, tmp_path):
    """Return a function that makes a pair in a directory and returns [certificate, key]."""

    def make_pair(directory, names=("chat.example.org",), **arguments):
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
        paths = [str(tmp_path / directory / name) for name in ("fullchain.pem", "privkey.pem")]
        done = salt_states(
            "chatmail_certificate.self_signed",
            name=paths[0],
            key=paths[1],
            subject_names=list(names),
            **arguments,
        )
        assert done["result"] is True
        return paths

    return make_pair


@pytest.fixture
def certbot(module, make, tmp_path, monkeypatch):
    """Take certbot's place.

    certbot.asked: its command lines so far. certbot.failing: names that cannot be validated.
    certbot.error: if this is not empty, each run fails with this output.
    """

    def run(command, **_):
        if command[0] != "certbot":
            raise AssertionError(command)
        asked.append(command)
        names = command[command.index("--domains") + 1].split(",")
        output = run.error
        for name in set(names) & set(run.failing):
            output += PROBLEM.format(name=name)
        if not output:
            shutil.rmtree(tmp_path / "letsencrypt/live", ignore_errors=True)
            make("letsencrypt/live/chatmail", names=names)
            renewal = tmp_path / "letsencrypt/renewal/chatmail.conf"
            renewal.parent.mkdir(exist_ok=True)
            renewal.write_text(f"server = {command[command.index('--server') + 1]}\n")
        return subprocess.CompletedProcess(command, int(bool(output)), output)

    asked = run.asked = []
    run.failing, run.error = [], ""
    monkeypatch.setattr(
        certbot_part,
        "subprocess",
        types.SimpleNamespace(**{**vars(subprocess), "run": run}),
    )
    return run


@pytest.fixture
def acme(salt_states, module):
    def call(test=False, **settings):
        name = str(module["TLS"] / "fullchain.pem")
        return salt_states(
            "chatmail_certificate.acme", test=test, name=name, settings={**SETTINGS, **settings}
        )

    return call


@pytest.fixture
def external(salt_states, module):
    def call(paths, test=False, names=("chat.example.org",)):
        return salt_states(
            "chatmail_certificate.external",
            test=test,
            name=str(module["TLS"] / "fullchain.pem"),
            certificate=paths[0],
            key=paths[1],
            subject_names=list(names),
        )

    return call
