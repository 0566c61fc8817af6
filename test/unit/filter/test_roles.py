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
    """The process, and roles that listen once they are released."""

    def __init__(self, directory, monkeypatch):
        self.sockets = directory / "s"
        self.sockets.mkdir()
        self.gates = {role: os.pipe() for role in ROLES}
        self.looks = os.pipe()
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(directory / "notify"))
        self.systemd.settimeout(20)
        self.pid = self.noted = None
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        monkeypatch.setattr(filter_main, "serve", self.serve)

    def serve(self, role, shared, path):
        """Stand for a role: listen when released, and stay until SIGTERM."""
        if os.read(self.gates[role][0], 1) == b"x":
            raise OSError("fault of the test")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            if role == self.noted:
                for _ in range(2):
                    listener.accept()
                    os.write(self.looks[1], b".")
            signal.sigwait({signal.SIGTERM})

    def start(self):
        self.pid = os.fork()
        if not self.pid:
            try:
                os.setsid()
                os._exit(filter_main.run(None, self.sockets))
            finally:
                os._exit(99)

    def release(self, *roles, octet=b"-"):
        for role in roles:
            os.write(self.gates[role][1], octet)

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
        for pipe in (*self.gates.values(), self.looks):
            for descriptor in pipe:
                os.close(descriptor)


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
    watched.noted = "mxdeliv"
    watched.start()
    watched.release(*ROLES[:3])
    # It looks for all of them, again and again.
    assert [os.read(watched.looks[0], 1) for _ in range(2)] == [b".", b"."]
    watched.systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        watched.told()
    watched.systemd.settimeout(20)
    watched.release(ROLES[3])
    assert watched.told() == b"READY=1"
    os.kill(watched.pid, number)
    assert watched.told() == b"STOPPING=1"
    assert watched.wait() == 0


@pytest.mark.parametrize("role", ROLES)
def test_role_that_cannot_listen_ends_the_whole(watched, role):
    watched.start()
    watched.release(*(other for other in ROLES if other != role))
    watched.release(role, octet=b"x")
    assert watched.wait() == 1


def test_role_that_never_listens_ends_the_whole(watched, monkeypatch):
    monkeypatch.setattr(filter_main, "START_SECONDS", 0.1)
    watched.start()
    watched.release(*ROLES[1:])
    assert watched.told() == b"STOPPING=1"
    # Its stand-in sees SIGTERM only when it listens.
    watched.release(ROLES[0])
    assert watched.wait() == 1


def test_filter_that_is_ready_stays_so_beyond_the_time_for_the_start(watched, monkeypatch):
    monkeypatch.setattr(filter_main, "START_SECONDS", 0)
    watched.release(*ROLES)
    monkeypatch.setattr(filter_main, "accepts", lambda _: True)
    watched.start()
    assert watched.told() == b"READY=1"
    # A signal that is none of a child wakes it, and it goes on to wait.
    os.kill(watched.pid, signal.SIGCHLD)
    os.kill(watched.pid, signal.SIGTERM)
    assert watched.told() == b"STOPPING=1"
    assert watched.wait() == 0


@pytest.mark.parametrize(
    ("octet", "status", "logged"), [(b"-", 0, ""), (b"x", 1, "sign: fault of the test\n")]
)
def test_role_ends_with_the_status_of_its_service(tmp_path, watched, octet, status, logged):
    watched.release("sign", octet=octet)
    log = logging.FileHandler(tmp_path / "log")
    filter_main.log.addHandler(log)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        child = filter_main.start("sign", None, watched.sockets / "sign")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        filter_main.log.removeHandler(log)
        log.close()
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
    assert (tmp_path / "log").read_text() == logged


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
    monkeypatch.setattr(filter_main, "run", lambda shared, sockets: 7)
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
