"""chatmail_accounts: what it asks of others, and the file that stops new addresses."""

import json

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
    """A machine whose sessions end at the second kick; its `asked` is what was run."""

    class Machine:
        def __init__(self):
            self.asked, self.sessions, self.answers = [], 2, {}

        def run(self, command, stdin="", **_):
            self.asked.append((command[0], json.loads(stdin) if stdin else command[1:]))
            out, code = "", 0
            if stdin:
                out = json.dumps(self.answers.get(json.loads(stdin)["do"], {"result": True}))
            elif command[1] == "kick":
                self.sessions -= 1
            elif self.sessions is None:
                code = 75
            else:
                out = "titles\n" + "a session\n" * self.sessions
            return {"retcode": code, "stdout": out, "stderr": ""}

    machine = Machine()
    removed = {"removed": True, "pending": 1}
    monkeypatch.setitem(
        module,
        "__salt__",
        {"cmd.run_all": machine.run, "chatmail_expire.remove": lambda address: removed},
    )
    return machine


def test_block_ends_all_sessions_after_the_password_is_gone(salt_modules, machine):
    assert salt_modules["chatmail_accounts.block"](ADDRESS) == {"changed": True, "disconnected": 2}
    assert machine.asked[0] == ("/usr/bin/python3", {"do": "block", "address": ADDRESS})
    assert machine.asked[-1] == ("doveadm", ["who", "-1", ADDRESS])
    assert machine.sessions == 0
    assert [asked[1] for asked in machine.asked].count(["kick", ADDRESS]) == 2


def test_block_while_dovecot_is_stopped_has_no_session_to_end(salt_modules, machine):
    machine.sessions = None
    assert salt_modules["chatmail_accounts.block"](ADDRESS)["disconnected"] == 0


def test_session_that_does_not_end_fails_with_what_to_do(salt_modules, machine, module):
    machine.sessions = 1000
    module["DISCONNECT_SECONDS"] = 0
    try:
        with pytest.raises(CommandExecutionError, match="systemctl restart dovecot"):
            salt_modules["chatmail_accounts.block"](ADDRESS)
    finally:
        module["DISCONNECT_SECONDS"] = 10


def test_delete_blocks_first_and_tells_what_went(salt_modules, machine):
    told = salt_modules["chatmail_accounts.delete"](ADDRESS)
    assert told == {"disconnected": 2, "removed": True, "pending": 1}
    assert machine.asked[0][1]["do"] == "block"


def test_refusal_of_the_service_is_a_plain_sentence(salt_modules, machine):
    machine.answers["info"] = {"error": "it does not exist"}
    with pytest.raises(CommandExecutionError, match=r"^it does not exist$"):
        salt_modules["chatmail_accounts.info"](ADDRESS)


def test_relay_without_its_services_says_what_to_apply(salt_modules, module, monkeypatch):
    broken = {"retcode": 1, "stdout": "", "stderr": "No module named chatmaild"}
    monkeypatch.setitem(module, "__salt__", {"cmd.run_all": lambda *_, **__: broken})
    with pytest.raises(CommandExecutionError, match=r"apply the state chatmail\.services"):
        salt_modules["chatmail_accounts.list"]()


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
