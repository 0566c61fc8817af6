"""Ending the IMAP sessions of an address. A stand-in takes the place of Dovecot."""

import os
import signal
from types import SimpleNamespace

import pytest
from chatmaild.accounts import sessions
from chatmaild.common.errors import OperatorError

ADDRESS = "abcdefghi@_chat.example.org"


@pytest.fixture
def machine(monkeypatch):
    """Take Dovecot's place. `asked`: the commands so far. `ended`: the ended processes."""

    class Machine:
        def __init__(self):
            self.asked, self.ended, self.woken = [], [], 0
            # The process ids of the sessions, and of those that are not hibernated.
            self.sessions, self.live = [], set()

        def wake(self):
            self.woken += 1
            self.live |= {pid for pid in self.sessions or () if pid > 1}

        def run(self, command, **_):
            self.asked.append(command)
            if self.sessions is None:
                return SimpleNamespace(returncode=75, stdout="", stderr="Connection refused")
            lines = [f"{ADDRESS} imap {pid} 192.0.2.1" for pid in self.sessions]
            return SimpleNamespace(returncode=0, stdout="\n".join(["titles", *lines]), stderr="")

        def read_name(self, pid):
            return "imap" if pid in self.live else "imap-hibernate"

        def kill(self, pid, number):
            assert number == signal.SIGTERM
            self.ended.append(pid)
            self.sessions.remove(pid)

    machine = Machine()
    monkeypatch.setattr(sessions.subprocess, "run", machine.run)
    monkeypatch.setattr(sessions, "_read_process_name", machine.read_name)
    monkeypatch.setattr(sessions.os, "kill", machine.kill)
    return machine


def test_sessions_end_in_processes_of_their_own(machine):
    """Hibernated sessions are woken first: imap-hibernate has clients of other addresses, too."""
    machine.sessions, machine.live = [10, 11, 12], {10}
    assert sessions.disconnect(ADDRESS, machine.wake) == 3
    assert machine.asked[0] == ["doveadm", "who", "-1", "--", ADDRESS]
    assert machine.ended == [10, 11, 12]
    assert machine.woken == 1


def test_stopped_dovecot_has_no_session_to_end(machine):
    machine.sessions = None
    assert sessions.disconnect(ADDRESS, machine.wake) == 0


def test_session_that_does_not_end_is_an_error_that_says_what_to_do(machine, monkeypatch):
    machine.sessions = [1]
    monkeypatch.setattr(sessions, "DISCONNECT_SECONDS", 0)
    with pytest.raises(OperatorError, match="systemctl restart dovecot"):
        sessions.disconnect(ADDRESS, machine.wake)


def test_other_failure_of_doveadm_is_an_error_with_its_message(machine, monkeypatch):
    failed = SimpleNamespace(returncode=64, stdout="", stderr="no such option\n")
    monkeypatch.setattr(sessions.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(OperatorError, match=r"^doveadm who: no such option$"):
        sessions.disconnect(ADDRESS, machine.wake)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another user")
def test_root_acts_as_a_user_and_is_root_again(tmp_path):
    """A link in a user's directory must not lead root to another file."""
    target = tmp_path / "of-root"
    target.touch(mode=0o600)
    before = os.geteuid(), os.getegid(), os.getgroups()
    with sessions.acting_as("nobody"):
        with pytest.raises(PermissionError):
            target.read_text()
        assert os.getgroups() == []
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    assert target.read_text() == ""
