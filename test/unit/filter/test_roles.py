"""The process that watches the four roles: what it tells systemd, and how it ends."""

import contextlib
import json
import logging
import os
import signal
import socket

import pytest
from chatmaild.filter import __main__ as filter_main
from support import running_filter

ROLES = ("submission", "incoming", "mxdeliv", "sign")


class Watched:
    """The process, and roles that do nothing, or break."""

    def __init__(self, directory, monkeypatch):
        self.sockets = directory / "s"
        self.sockets.mkdir()
        self.log = directory / "log"
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(directory / "notify"))
        self.systemd.settimeout(20)
        self.pid = self.broken = None
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        monkeypatch.setattr(filter_main.milter_server, "serve", self.serve)

    def serve(self, listener, _new_session):
        if listener.getsockname() == str(self.sockets / str(self.broken)):
            raise RuntimeError("fault of the test")
        signal.pause()

    def start(self):
        self.pid = os.fork()
        if not self.pid:
            try:
                os.setsid()
                filter_main.log.addHandler(logging.FileHandler(self.log))
                os._exit(filter_main.run(None, filter_main.listen(self.sockets)))
            finally:
                os._exit(99)

    def wait(self):
        """Return the exit status; no role may be left then."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with pytest.raises(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.pid = None
        return status

    def told(self):
        return self.systemd.recv(100)

    def end(self):
        if self.pid:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        self.systemd.close()


@pytest.fixture
def watched(tmp_path, monkeypatch):
    made = Watched(tmp_path, monkeypatch)
    yield made
    made.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_systemd_is_told_when_all_roles_listen_and_when_they_stop(watched, number):
    # What a killed filter left.
    for role in ROLES:
        (watched.sockets / role).touch()
    watched.start()
    assert watched.told() == b"READY=1"
    for role in ROLES:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(watched.sockets / role))
    # A signal that is none of a child wakes it, and it goes on to wait.
    os.kill(watched.pid, signal.SIGCHLD)
    os.kill(watched.pid, number)
    assert watched.told() == b"STOPPING=1"
    assert watched.wait() == 0


@pytest.mark.parametrize("role", ROLES)
def test_role_that_breaks_ends_the_whole_and_says_why(watched, role):
    watched.broken = role
    watched.start()
    assert watched.wait() == 1
    assert f"{role}: fault of the test\n" in watched.log.read_text()
    assert f"the milter for {role} ended (1)\n" in watched.log.read_text()


def test_filter_that_cannot_listen_says_so_and_does_not_start(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(filter_main, "start_logging", lambda: None)
    running_filter.Filter(tmp_path)
    (tmp_path / "s").rmdir()
    arguments = ["--settings", str(tmp_path / "relay.json"), "--keys", str(tmp_path / "keys")]
    assert filter_main.main([*arguments, "--sockets", str(tmp_path / "s")]) == 1
    assert "not started: FileNotFoundError: " in caplog.text


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("relay.json", None, "OperatorError: cannot read the relay's settings in "),
        ("relay.json", "{", "OperatorError: cannot read the relay's settings in "),
        ("keys/rsa.pem", None, "FileNotFoundError: "),
        ("keys/rsa.pem", "x", "ValueError: "),
        ("keys/signing.json", "{}", "KeyError: 'selectors'"),
    ],
)
def test_filter_with_wrong_files_says_so_and_does_not_start(
    tmp_path, monkeypatch, caplog, file, content, told
):
    monkeypatch.setattr(filter_main, "start_logging", lambda: None)
    monkeypatch.setattr(filter_main, "listen", lambda sockets: {})
    monkeypatch.setattr(filter_main, "run", lambda shared, listeners: 7)
    running_filter.Filter(tmp_path)
    arguments = ["--settings", str(tmp_path / "relay.json"), "--keys", str(tmp_path / "keys")]
    assert filter_main.main(arguments) == 7
    (tmp_path / file).unlink()
    if content:
        (tmp_path / file).write_text(content)
    assert filter_main.main(arguments) == 1
    assert f"not started: {told}" in caplog.text


def test_filter_with_settings_of_another_release_does_not_start(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(filter_main, "start_logging", lambda: None)
    home = running_filter.Filter(tmp_path).home
    settings = {k: v for k, v in running_filter.SETTINGS.items() if k != "dkim_required"}
    (home / "relay.json").write_text(json.dumps(settings))
    assert filter_main.main(["--settings", str(home / "relay.json")]) == 1
    assert "not started: KeyError: 'dkim_required'" in caplog.text
