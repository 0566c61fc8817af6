"""chatmail_expire: the functions for operators, and the report in Salt's mine.

A minion without a master has the mine in its own cache.
"""

import json
import os
import time
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError
from support.mailbox_tree import DAY, DOMAIN, make_mailbox, settings_for, write_message


@pytest.fixture
def mail(tmp_path):
    """Return the directory of the mailboxes. The relay's settings are beside it."""
    (tmp_path / "mail").mkdir()
    (tmp_path / "relay.json").write_text(json.dumps(settings_for(tmp_path / "mail")))
    return tmp_path / "mail"


def test_report_goes_into_the_mine_and_comes_back(salt_opts, salt_modules, mail):
    config = str(mail.with_name("relay.json"))
    box = make_mailbox(mail, f"user00001@{DOMAIN}", login=time.time())
    write_message(f"{box}/cur", time.time(), disk=2048)
    os.makedirs(salt_opts["cachedir"])
    # This is the example of docs/retention.md with another settings file.
    salt_opts["mine_functions"] = {"chatmail_expire.report": [{"config": config}]}
    assert salt_modules["mine.update"]()
    stored = salt_modules["mine.get"]("*", "chatmail_expire.report")
    report = salt_modules["chatmail_expire.report"](config=config)
    assert stored == {"relay": report}
    assert report["accounts"]["all"] == report["messages_count"]["0"] == 1
    assert DOMAIN not in json.dumps(stored)


def test_salt_loads_four_functions_with_examples(salt_modules):
    names = {name for name in salt_modules if name.startswith("chatmail_expire.")}
    assert names == {f"chatmail_expire.{name}" for name in ("run", "quota", "remove", "report")}
    for name in names:
        assert "CLI Example:" in salt_modules[name].__doc__
        assert f" {name}" in salt_modules[name].__doc__


def test_salt_run_honours_its_test_setting(salt_opts, salt_modules, mail):
    config = str(mail.with_name("relay.json"))
    box = Path(make_mailbox(mail, f"user00001@{DOMAIN}", login=time.time() - 100 * DAY))
    salt_opts["test"] = True
    announced = salt_modules["chatmail_expire.run"](config=config)
    assert announced["dry_run"] is True
    assert box.exists()
    done = salt_modules["chatmail_expire.run"](test=False, config=config)
    assert done["removed"] == announced["removed"]
    assert not box.exists()


def test_quota_and_remove_take_an_address(salt_modules, mail):
    config, address = str(mail.with_name("relay.json")), f"user00001@{DOMAIN}"
    box = make_mailbox(mail, address, login=time.time())
    write_message(f"{box}/cur", time.time() - 2 * DAY, size=500)
    done = salt_modules["chatmail_expire.quota"](address, 0, config=config)
    assert (done["before"], done["after"]) == (500, 0)
    assert salt_modules["chatmail_expire.remove"](address, config=config)["removed"] is True
    assert not os.path.exists(box)


def test_salt_error_is_a_plain_sentence(salt_modules, tmp_path):
    with pytest.raises(CommandExecutionError, match=r"Run `salt-call state\.apply chatmail` first"):
        salt_modules["chatmail_expire.report"](config=str(tmp_path / "none.json"))
