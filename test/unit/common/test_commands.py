"""The program behind a Salt module: a request on standard input, an answer on standard output."""

import io
import json

import pytest
from chatmaild.common import commands
from chatmaild.common.errors import InvalidRequest, OperatorError


def raising(error):
    def command(_settings):
        raise error

    return command


COMMANDS = {
    "echo": lambda settings, **arguments: [settings, arguments],
    "refuse": raising(OperatorError("it cannot be done: do this first")),
    "doubt": raising(InvalidRequest("bits 7 are not possible")),
    "full": raising(OSError(28, "No space left on device", "/etc/file")),
    "broken": raising(OSError("power failure")),
}


@pytest.fixture
def ask(monkeypatch, capsys):
    def ask(**request):
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
        commands.answer(COMMANDS)
        return json.loads(capsys.readouterr().out)

    return ask


def test_settings_come_with_the_request_or_from_a_file(ask, tmp_path):
    assert ask(do="echo", settings={"a": 1}, arguments={"b": 2}) == {"result": [{"a": 1}, {"b": 2}]}
    (tmp_path / "relay.json").write_text('{"a": 3}')
    assert ask(do="echo", settings=str(tmp_path / "relay.json")) == {"result": [{"a": 3}, {}]}


def test_machine_without_settings_says_what_to_do(ask, tmp_path):
    reply = ask(do="echo", settings=str(tmp_path / "none.json"))
    assert "Run `salt-call state.apply chatmail` first" in reply["error"]
    assert str(tmp_path / "none.json") in reply["error"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("refuse", {"error": "it cannot be done: do this first"}),
        ("doubt", {"error": "bits 7 are not possible", "invalid": True}),
        ("full", {"error": "/etc/file: No space left on device"}),
        ("broken", {"error": "power failure"}),
    ],
)
def test_failure_is_a_sentence_and_no_traceback(ask, command, expected):
    assert ask(do=command, settings={}) == expected


def test_command_of_another_release_is_an_error_that_says_so(ask):
    reply = ask(do="new", settings={})
    assert "chatmail.program" in reply["error"]
