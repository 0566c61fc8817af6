"""chatmail_program calls the relay's program. These tests run the real program."""

import getpass
import json
import os
import re

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

ADDRESS = "abcdefghi@_chat.example.org"


@pytest.fixture
def module(salt_modules):
    return salt_modules["chatmail_program.call"].func.__globals__


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "mail").mkdir()
    return {
        "mail_domain": "_chat.example.org",
        "address_domain": "_chat.example.org",
        "mailboxes_dir": str(tmp_path / "mail"),
        "registration": "open",
    }


def replace_program(module, monkeypatch, tmp_path, code):
    """Let the module call another program, whose subpackage `accounts` runs this code."""
    for part in ("common", "accounts"):
        (tmp_path / "program/chatmaild" / part).mkdir(parents=True)
    (tmp_path / "program/chatmaild/accounts/commands.py").write_text(code)
    monkeypatch.setitem(module, "PROGRAM", str(tmp_path / "program"))


def test_result_of_the_program_comes_back(salt_modules, settings):
    assert salt_modules["chatmail_program.call"]("accounts", "list", settings=settings) == []


def test_settings_may_be_a_file(salt_modules, settings, tmp_path):
    path = tmp_path / "relay.json"
    path.write_text(json.dumps(settings))
    assert salt_modules["chatmail_program.call"]("accounts", "list", settings=str(path)) == []


def test_refusal_of_the_program_is_a_plain_sentence(salt_modules, settings):
    with pytest.raises(CommandExecutionError, match=rf"^{re.escape(ADDRESS)} does not exist: "):
        salt_modules["chatmail_program.call"](
            "accounts", "info", {"address": ADDRESS}, settings=settings
        )


def test_wrong_argument_is_an_invocation_error(module, salt_modules, monkeypatch, tmp_path):
    replace_program(module, monkeypatch, tmp_path, """print('{"error": "no", "invalid": true}')""")
    with pytest.raises(SaltInvocationError, match=r"^no$"):
        salt_modules["chatmail_program.call"]("accounts", "list")
    with pytest.raises(SaltInvocationError, match="expected a subpackage"):
        salt_modules["chatmail_program.call"]("../accounts", "list")


def test_machine_without_the_program_says_what_to_apply(
    module, salt_modules, monkeypatch, tmp_path
):
    monkeypatch.setitem(module, "PROGRAM", str(tmp_path))
    assert salt_modules["chatmail_program.installed"]() is False
    with pytest.raises(CommandExecutionError, match=r"state\.apply chatmail\.program"):
        salt_modules["chatmail_program.call"]("accounts", "list")


def test_program_that_lacks_a_library_says_what_to_apply(
    module, salt_modules, monkeypatch, tmp_path
):
    replace_program(module, monkeypatch, tmp_path, "import no_such_library")
    with pytest.raises(CommandExecutionError, match=r"no_such_library.*chatmail\.program"):
        salt_modules["chatmail_program.call"]("accounts", "list")


def test_error_of_a_crashed_program_has_its_last_line(module, salt_modules, monkeypatch, tmp_path):
    replace_program(module, monkeypatch, tmp_path, "raise RuntimeError('out of luck')")
    with pytest.raises(CommandExecutionError, match=r"status 1: RuntimeError: out of luck$"):
        salt_modules["chatmail_program.call"]("accounts", "list")


def test_program_runs_as_the_user_and_without_the_environment_of_salt(
    module, salt_modules, monkeypatch, tmp_path
):
    code = (
        "import json, os\nprint(json.dumps({'result': [os.getuid(), os.getgroups(), *os.environ]}))"
    )
    replace_program(module, monkeypatch, tmp_path, code)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/saltstack")
    uid, groups, *names = salt_modules["chatmail_program.call"](
        "accounts", "list", user=getpass.getuser()
    )
    assert (uid, groups) == (os.getuid(), os.getgrouplist(getpass.getuser(), os.getgid()))
    assert "LD_LIBRARY_PATH" not in names
    with pytest.raises(CommandExecutionError, match="no user nobody-here"):
        salt_modules["chatmail_program.call"]("accounts", "list", user="nobody-here")
