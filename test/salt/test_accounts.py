"""chatmail_accounts: what it asks of others, and the file that stops new addresses."""

from types import SimpleNamespace

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

ADDRESS = "abcdefghi@_chat.example.org"


@pytest.fixture
def module(salt_modules, tmp_path, monkeypatch):
    """Return the module's globals, with paths of the test's own."""
    namespace = salt_modules["chatmail_accounts.count"].func.__globals__
    monkeypatch.setitem(namespace, "NOCREATE", tmp_path / "chatmail-nocreate")
    return namespace


@pytest.fixture
def machine(module, monkeypatch):
    """A machine with Dovecot's answers; `asked` is what was run, `ended` the processes ended."""

    class Machine:
        def __init__(self):
            self.asked, self.ended = [], []
            # Process ids, and which of them are a client's own.
            self.sessions, self.live = [], set()

        def call(self, part, do, arguments=None, user=None):
            assert (part, user) == ("accounts", "vmail")
            self.asked.append(do)
            if do == "wake":
                self.live |= {pid for pid in self.sessions or () if pid > 1}
            return True

        def run(self, command, **_):
            self.asked.append(command)
            if self.sessions is None:
                return {"retcode": 75, "stdout": "", "stderr": "Connection refused"}
            lines = [f"{ADDRESS} imap {pid} 192.0.2.1" for pid in self.sessions]
            return {"retcode": 0, "stdout": "\n".join(["titles", *lines]), "stderr": ""}

        def process(self, pid):
            return "imap" if pid in self.live else "imap-hibernate"

        def kill(self, pid, _):
            self.ended.append(pid)
            self.sessions.remove(pid)

    machine = Machine()
    removed = {"removed": True, "pending": 1}
    answers = {
        "cmd.run_all": machine.run,
        "chatmail_program.call": machine.call,
        "chatmail_expire.remove": lambda address: removed,
    }
    monkeypatch.setitem(module, "__salt__", answers)
    monkeypatch.setitem(module, "_process", machine.process)
    monkeypatch.setitem(module, "os", SimpleNamespace(kill=machine.kill))
    return machine


def test_block_ends_sessions_in_processes_of_their_own(salt_modules, machine):
    """What imap-hibernate holds is woken first: its process has clients of others."""
    machine.sessions, machine.live = [10, 11, 12], {10}
    assert salt_modules["chatmail_accounts.block"](ADDRESS) == {"changed": True, "disconnected": 3}
    assert machine.asked[0] == "block"
    assert machine.asked[1] == ["doveadm", "who", "-1", "--", ADDRESS]
    assert machine.ended == [10, 11, 12]
    assert machine.asked.count("wake") == 1


def test_block_while_dovecot_is_stopped_has_no_session_to_end(salt_modules, machine):
    machine.sessions = None
    assert salt_modules["chatmail_accounts.block"](ADDRESS)["disconnected"] == 0


def test_session_that_does_not_end_fails_with_what_to_do(
    salt_modules, machine, module, monkeypatch
):
    machine.sessions = [1]
    monkeypatch.setitem(module, "DISCONNECT_SECONDS", 0)
    with pytest.raises(CommandExecutionError, match="systemctl restart dovecot"):
        salt_modules["chatmail_accounts.block"](ADDRESS)


def test_delete_blocks_first_and_tells_what_went(salt_modules, machine):
    machine.sessions, machine.live = [10], {10}
    told = salt_modules["chatmail_accounts.delete"](ADDRESS)
    assert told == {"disconnected": 1, "removed": True, "pending": 1}
    assert machine.asked[0] == "block"


@pytest.mark.parametrize(("on", "off"), [("on", "off"), (True, False)])
def test_nocreate_puts_and_takes_away_the_file(salt_modules, module, on, off):
    nocreate = salt_modules["chatmail_accounts.nocreate"]
    assert nocreate(on) == {"nocreate": True, "changed": True}
    assert nocreate(on) == {"nocreate": True, "changed": False}
    assert module["NOCREATE"].exists()
    assert nocreate(off) == {"nocreate": False, "changed": True}
    assert nocreate(off) == {"nocreate": False, "changed": False}
    assert not module["NOCREATE"].exists()


def test_nocreate_leaves_what_the_pillar_says(salt_modules, module):
    module["NOCREATE"].write_text("Managed by the chatmail formula: …\n")
    assert salt_modules["chatmail_accounts.nocreate"]("on")["changed"] is False
    with pytest.raises(CommandExecutionError, match="change it there"):
        salt_modules["chatmail_accounts.nocreate"]("off")
    assert module["NOCREATE"].exists()


@pytest.mark.parametrize("state", ["maybe", 1, None, ""])
def test_nocreate_of_another_word_is_refused(salt_modules, module, state):
    with pytest.raises(SaltInvocationError, match="allowed is on or off"):
        salt_modules["chatmail_accounts.nocreate"](state)
