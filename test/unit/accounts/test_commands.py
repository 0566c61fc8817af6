"""The commands behind chatmail_accounts: requests, results, refusals."""

import io
import json
import os

import pytest
from chatmaild.accounts import commands, invitations, mailboxes
from chatmaild.common.commands import answer
from chatmaild.metadata import entries

ADDRESS = "abcdefghi@_chat.example.org"


@pytest.fixture
def relay(tmp_path, monkeypatch):
    """Return the settings of a relay with one address."""
    relay = {
        "mail_domain": "_chat.example.org",
        "address_domain": "_chat.example.org",
        "mailboxes_dir": str(tmp_path / "mail"),
        "registration": "invite",
    }
    (tmp_path / "mail").mkdir()
    mailboxes.create(relay["mailboxes_dir"], ADDRESS, "a password")
    monkeypatch.setattr(invitations, "DIRECTORY", tmp_path / "invitations")
    return relay


@pytest.fixture
def ask(relay, monkeypatch, capsys):
    """Return a function that makes a request and returns the printed answer."""

    def ask(do, **arguments):
        request = {"do": do, "settings": relay, "arguments": arguments}
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(request)))
        answer(commands.COMMANDS)
        return json.loads(capsys.readouterr().out)

    return ask


def test_list_and_count_have_all_addresses(relay, ask):
    mailboxes.create(relay["mailboxes_dir"], "aaaaaaaaa@_chat.example.org", "a password")
    assert ask("list") == {"result": ["aaaaaaaaa@_chat.example.org", ADDRESS]}
    assert ask("block", address=ADDRESS) == {"result": True}
    assert ask("count") == {"result": {"addresses": 2, "blocked": 1}}


def test_info_does_not_show_the_password(relay, ask):
    home = commands.home_of(relay, ADDRESS)
    entries.add_token(home, "device-token", 2**31)
    os.utime(home / "password", (0, 0))
    info = ask("info", address=ADDRESS)
    assert info["result"]["last_login"] == "1970-01-01"
    assert sorted(info["result"]) == [
        "address", "blocked", "bytes", "devices", "last_login", "messages",
    ]  # fmt: skip
    assert "SHA512" not in json.dumps(info)
    assert "device-token" not in json.dumps(info)


@pytest.mark.parametrize("command", ["info", "block", "unblock", "disconnect"])
@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("aaaaaaaaa@_chat.example.org", "does not exist"),
        ("abcdefghi@example.org", "is no address of this relay"),
        ("../mail/abcdefghi@_chat.example.org", "is no address of this relay"),
        ("ABCDEFGHI@_chat.example.org", "is no address of this relay"),
        ("", "is no address of this relay"),
    ],
)
def test_text_that_is_no_address_is_refused(relay, ask, command, address, why):
    more = {"mail_user": "vmail"} if command == "disconnect" else {}
    assert why in ask(command, address=address, **more)["error"]
    assert os.listdir(relay["mailboxes_dir"]) == [ADDRESS]


def test_unblock_without_the_old_password_says_what_to_do(relay, ask):
    (commands.home_of(relay, ADDRESS) / "password").write_text("")
    assert "delete the address" in ask("unblock", address=ADDRESS)["error"]


def test_invitation_is_shown_once_as_link_and_code(ask):
    made = ask("invite", uses=3, days=7, note="choir")["result"]
    token = made["link"].removeprefix("https://_chat.example.org/#")
    assert invitations.TOKEN.fullmatch(token)
    assert made["code"] == f"DCACCOUNT:https://_chat.example.org/new?token={token}"
    listed = ask("invites")["result"]
    assert listed == {made["id"]: {"uses": 3, "until": made["until"], "note": "choir"}}
    assert token not in json.dumps(listed)
    assert ask("revoke", identifier=made["id"]) == {"result": True}
    assert ask("revoke", identifier=made["id"]) == {"result": False}
    assert ask("invites") == {"result": {}}


@pytest.mark.parametrize("registration", ["open", "closed"])
def test_invitation_is_refused_while_registration_is_not_invite(relay, ask, registration):
    relay["registration"] = registration
    error = ask("invite", uses=1, days=1, note="")["error"]
    assert f"registration is {registration}" in error
    assert "chatmail:registration" in error


def test_invitation_with_an_impossible_value_names_it(ask):
    assert ask("invite", uses=0, days=1, note="")["error"].startswith("uses: 0, allowed is")


def test_message_about_a_disk_error_has_the_path(relay, ask):
    mailboxes_dir = relay["mailboxes_dir"]
    relay["mailboxes_dir"] += "/none"
    assert ask("list") == {"error": f"{mailboxes_dir}/none: No such file or directory"}
