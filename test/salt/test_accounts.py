"""chatmail_accounts: its calls of the program, and the file that stops new addresses."""

import pytest
from chatmaild.accounts import nocreate as program
from salt.exceptions import CommandExecutionError, SaltInvocationError
from support import in_process

ADDRESS = "abcdefghi@_chat.example.org"


@pytest.fixture
def salt_opts(salt_opts):
    """Let the door ask the program in this process."""
    in_process.answer_in_process(salt_opts)
    return salt_opts


@pytest.fixture
def nocreate_file(tmp_path, monkeypatch):
    """Return the path of the file that stops new addresses, in a directory of the test's own."""
    monkeypatch.setattr(program, "NOCREATE", tmp_path / "chatmail-nocreate")
    return program.NOCREATE


@pytest.fixture
def asked(salt_modules, monkeypatch):
    """Return the list of what the module asks the program: (command, arguments, user)."""
    asked = []

    def call(part, do, arguments=None, user=None):
        assert part == "accounts"
        asked.append((do, arguments, user))
        return 3 if do == "disconnect" else True

    answers = {
        "chatmail_program.call": call,
        "chatmail_expire.remove": lambda address: {"removed": True, "pending": 1},
    }
    namespace = salt_modules["chatmail_accounts.count"].func.__globals__
    monkeypatch.setitem(namespace, "__salt__", answers)
    return asked


def test_block_comes_first_and_root_then_ends_the_sessions(salt_modules, asked):
    """If the sessions ended before the block, the client would log in again."""
    assert salt_modules["chatmail_accounts.block"](ADDRESS) == {"changed": True, "disconnected": 3}
    assert asked == [
        ("block", {"address": ADDRESS}, "vmail"),
        ("disconnect", {"address": ADDRESS, "mail_user": "vmail"}, None),
    ]


def test_delete_blocks_first_and_returns_what_was_removed(salt_modules, asked):
    result = salt_modules["chatmail_accounts.delete"](ADDRESS)
    assert result == {"disconnected": 3, "removed": True, "pending": 1}
    assert asked[0][0] == "block"


@pytest.mark.parametrize(("on", "off"), [("on", "off"), (True, False)])
def test_nocreate_makes_and_removes_the_file(salt_modules, nocreate_file, on, off):
    nocreate = salt_modules["chatmail_accounts.nocreate"]
    assert nocreate(on) == {"nocreate": True, "changed": True}
    assert nocreate(on) == {"nocreate": True, "changed": False}
    assert nocreate_file.exists()
    assert nocreate(off) == {"nocreate": False, "changed": True}
    assert nocreate(off) == {"nocreate": False, "changed": False}
    assert not nocreate_file.exists()


def test_nocreate_does_not_remove_the_file_of_the_pillar(salt_modules, nocreate_file):
    nocreate_file.write_text("Managed by the chatmail formula: …\n")
    assert salt_modules["chatmail_accounts.nocreate"]("on")["changed"] is False
    with pytest.raises(CommandExecutionError, match="change it there"):
        salt_modules["chatmail_accounts.nocreate"]("off")
    assert nocreate_file.exists()


@pytest.mark.parametrize("state", ["maybe", 1, None, ""])
def test_nocreate_refuses_other_words_than_on_and_off(salt_modules, nocreate_file, state):
    with pytest.raises(SaltInvocationError, match="allowed is on or off"):
        salt_modules["chatmail_accounts.nocreate"](state)
