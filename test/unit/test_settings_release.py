"""An older release of the formula leaves alone a machine that a newer one has converged."""

import json

import pytest
from support.settings import settings


class Machine:
    """Answers what `run()` asks Salt about the files of a machine. asked: what it was asked."""

    def __init__(self, files):
        self.files, self.asked = files, []

    def exists(self, path):
        self.asked.append(path)
        return path in self.files

    def read(self, path):
        self.asked.append(path)
        return self.files[path]


@pytest.fixture
def run(monkeypatch):
    """Return a function that lets `run()` resolve a pillar on a machine with some files."""

    def run(files, *, opts=(), times=1):
        machine = Machine(files)
        names = {
            "__salt__": {"file.file_exists": machine.exists, "file.read": machine.read},
            "__opts__": dict(opts),
            "__pillar__": {"chatmail": {"mail_domain": "chat.example.org"}},
            "__grains__": {"os": "Debian", "osmajorrelease": 13},
        }
        for name, value in names.items():
            monkeypatch.setattr(settings, name, value, raising=False)
        return [settings.run() for _ in range(times)][-1], machine.asked

    return run


def stored(release):
    return {settings.STORED: json.dumps({"formula": release})}


@pytest.mark.parametrize("found", ["2026.11.1", "2026.12", "2027.1", "2100.01"])
def test_older_release_than_that_of_the_machine_is_refused_with_what_to_do(run, monkeypatch, found):
    monkeypatch.setattr(settings, "FORMULA", "2026.11")
    result, _ = run(stored(found))
    assert set(result) == {"error"}
    assert f"release {found} of the formula converged this machine" in result["error"]
    assert "this is 2026.11, which is older; nothing was changed" in result["error"]
    assert f"chatmail.clean with {found}" in result["error"]


@pytest.mark.parametrize("found", ["2026.11.1", "2026.11", "2026.9", "2025.12"])
def test_release_of_the_machine_or_a_newer_one_is_accepted(run, monkeypatch, found):
    monkeypatch.setattr(settings, "FORMULA", "2026.11.1")
    assert run(stored(found))[0]["formula"] == "2026.11.1"


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"formula": null}', '{"formula": "x"}'])
def test_machine_that_names_no_release_is_converged(run, text):
    """Release 2026.11 named none, and a damaged file is written anew."""
    assert run({settings.STORED: text})[0]["formula"] == settings.FORMULA


def test_machine_that_is_no_relay_is_converged(run):
    assert run({})[0]["formula"] == settings.FORMULA


def test_salt_ssh_asks_the_machine_once_for_each_file(run):
    """Each question opens a connection, and `run()` is called for each part."""
    ssh = {"_ssh_version": "1"}
    _, asked = run(stored(settings.FORMULA), opts=ssh, times=3)
    assert asked == [settings.STORED, settings.STORED, settings.MAIL_OFF]
