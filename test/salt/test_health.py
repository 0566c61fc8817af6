"""chatmail_relay.health: what it asks the program, and the exit code of salt-call."""

import json

import pytest
from salt.exceptions import CommandExecutionError


@pytest.fixture
def ask(salt_modules, tmp_path, monkeypatch):
    """Return the function, with the program's result and its calls as attributes."""
    namespace = salt_modules["chatmail_relay.ports"].func.__globals__
    monkeypatch.setitem(namespace, "SETTINGS", tmp_path / "relay.json")
    context, calls = {}, []

    def health(**arguments):
        return namespace["health"](**arguments)

    def call(*arguments):
        calls.append(arguments)
        return health.answer

    given = {
        "chatmail_program.call": call,
        "chatmail_program.settings": lambda found: {**found, "own_addresses": ["192.0.2.1"]},
    }
    monkeypatch.setitem(namespace, "__salt__", given)
    monkeypatch.setitem(namespace, "__context__", context)
    health.answer, health.calls, health.context = {"result": True}, calls, context
    health.settings = tmp_path / "relay.json"
    return health


@pytest.mark.parametrize("result", [True, False])
def test_exit_code_tells_whether_the_relay_is_healthy(ask, result):
    ask.settings.write_text(json.dumps({"mail_domain": "_chat.example.org"}))
    ask.answer = {"result": result, "seconds": 1.0, "steps": []}
    assert ask(offline=True) == ask.answer
    settings = {"mail_domain": "_chat.example.org", "own_addresses": ["192.0.2.1"]}
    assert ask.calls == [("health", "run", {"offline": True}, settings)]
    assert ask.context == ({} if result else {"retcode": 1})


def test_machine_that_is_no_relay_says_what_to_apply(ask):
    with pytest.raises(CommandExecutionError, match=r"expected .* Run state\.apply chatmail"):
        ask()
    assert ask.calls == []


def test_program_takes_what_the_module_sends(ask):
    from chatmaild.health import checking, commands

    ask.settings.write_text("{}")
    ask()
    [(_, command, arguments, settings)] = ask.calls
    checked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "check", lambda *each: checked.append(each))
        commands.COMMANDS[command](settings, **arguments)
    assert checked == [(settings, False)]
