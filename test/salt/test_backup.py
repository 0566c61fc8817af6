"""chatmail_backup: what it asks the program, and what reaches an operator."""

import json

import pytest
from chatmaild.backup import commands
from salt.exceptions import CommandExecutionError, SaltInvocationError
from support import in_process
from support.backup import DOMAIN, PASSWORD, SECRETS, TOKEN, Machine, make_key


@pytest.fixture
def salt_opts(salt_opts):
    """Let the door ask the program in this process."""
    in_process.answer_in_process(salt_opts)
    salt_opts["pillar"] = {"chatmail": {"mail_domain": DOMAIN}}
    return salt_opts


@pytest.fixture
def use(salt_modules, monkeypatch):
    """Return a function that lets the modules work on a machine."""

    def use(machine):
        machine.use(monkeypatch)
        path = machine.root / "etc/chatmail/relay.json"
        path.write_text(json.dumps(machine.settings))
        # The door's own request has no settings, so the program reads this file.
        monkeypatch.setattr("chatmaild.common.commands.SETTINGS", str(path))
        return machine

    return use


@pytest.fixture
def key(tmp_path):
    return make_key(tmp_path)


@pytest.fixture
def old(tmp_path, key, use):
    machine = use(Machine(tmp_path / "old", key[1]))
    machine.add_keys()
    machine.add_invitation()
    machine.add_address("alice0000")
    return machine


def test_archive_goes_from_one_relay_to_another(salt_modules, tmp_path, key, old, use, caplog):
    caplog.set_level("DEBUG")
    made = salt_modules["chatmail_backup.create"]()
    checked = salt_modules["chatmail_backup.verify"](made["path"], sha256=made["sha256"])
    assert checked == {name: made[name] for name in ("path", "sha256", "bytes")}
    new = use(Machine(tmp_path / "new", key[1]))
    restore = salt_modules["chatmail_backup.restore"]
    announced = restore(made["path"], str(key[0]), test=True)
    assert list(new.mail.iterdir()) == []
    done = restore(made["path"], str(key[0]))
    assert done == announced
    assert (done["addresses"], done["invitations"]) == (1, 1)
    assert (new.mail / f"alice0000@{DOMAIN}/password").exists()
    shown = json.dumps([made, checked, done]) + caplog.text
    hashed = (new.mail / f"alice0000@{DOMAIN}/password").read_text()
    for secret in [*map(bytes.decode, SECRETS), TOKEN, PASSWORD, hashed, "alice0000"]:
        assert secret not in shown


def test_restore_honours_salts_test_setting(salt_opts, salt_modules, tmp_path, key, old, use):
    # Salt takes the options when it loads the module.
    salt_opts["test"] = True
    made = salt_modules["chatmail_backup.create"]()
    new = use(Machine(tmp_path / "new", key[1]))
    assert salt_modules["chatmail_backup.restore"](made["path"], str(key[0]))["addresses"] == 1
    assert list(new.mail.iterdir()) == []


def test_refusal_is_a_plain_sentence(salt_modules, old, key):
    made = salt_modules["chatmail_backup.create"]()
    with pytest.raises(CommandExecutionError, match=r"this relay has addresses already.* changed$"):
        salt_modules["chatmail_backup.restore"](made["path"], str(key[0]))
    with pytest.raises(CommandExecutionError, match=r"nowhere\.age: No such file"):
        salt_modules["chatmail_backup.verify"]("/nowhere.age")
    with pytest.raises(SaltInvocationError, match="never overwritten"):
        salt_modules["chatmail_backup.create"](made["path"])
    old.settings["backup_recipients"] = []
    (old.root / "etc/chatmail/relay.json").write_text(json.dumps(old.settings))
    with pytest.raises(CommandExecutionError, match="backup_recipients is empty"):
        salt_modules["chatmail_backup.create"]()


def test_program_has_a_command_for_each_function(salt_modules):
    names = {name for name in salt_modules if name.startswith("chatmail_backup.")}
    assert names == {f"chatmail_backup.{name}" for name in commands.COMMANDS}
