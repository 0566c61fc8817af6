"""The throwaway address of a run of ping: its name, what arrived, and that nothing of it stays."""

import contextlib
from pathlib import Path

import pytest
from chatmaild.common.errors import InvalidRequest, OperatorError
from chatmaild.health import throwaway
from chatmaild.ping import mailbox

TOKEN = "abcdefghij234567"
OTHER = "zzzzzzzzzz234567"
HEAD = "guid\thdr.from\thdr.message-id\n"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """The settings of a relay without daemons. The calls of systemd are in settings["calls"]."""
    calls = []
    monkeypatch.setattr(throwaway, "list_queue", list)
    for module in (throwaway, mailbox):
        monkeypatch.setattr(module, "acting_as", lambda _user: contextlib.nullcontext())
    monkeypatch.setattr(mailbox.subprocess, "run", lambda argv, **_: calls.append(argv))
    (tmp_path / "mail").mkdir()
    return {
        "address_domain": "_a.example.org",
        "mail": True,
        "mailboxes_dir": str(tmp_path / "mail"),
        "delete_inactive_users_after": 90,
        "delete_large_after": 7,
        "delete_mails_after": 20,
        "max_mailbox_size": 1000000,
        "calls": calls,
    }


def test_address_is_made_and_removed_without_a_trace(settings):
    assert mailbox.open_(settings, TOKEN) == {"domain": "_a.example.org"}
    home = Path(settings["mailboxes_dir"], f"{TOKEN}@_a.example.org")
    assert (home / "enforceE2EEincoming").exists()
    assert (home / "password").stat().st_size
    [guard] = settings["calls"]
    assert guard[0] == "systemd-run"
    assert guard[-4:] == ["-B", "-m", "chatmaild.ping", TOKEN]
    assert mailbox.close(settings, TOKEN) is True
    assert list(home.parent.iterdir()) == []
    assert settings["calls"][1] == ["systemctl", "stop", f"relay-ping-{TOKEN}.timer"]


def test_second_run_with_the_same_token_is_refused(settings):
    mailbox.open_(settings, TOKEN)
    with pytest.raises(OperatorError, match="expected: a new token"):
        mailbox.open_(settings, TOKEN)


def test_relay_whose_mail_is_off_says_so(settings):
    with pytest.raises(OperatorError, match="mail: false"):
        mailbox.open_({**settings, "mail": False}, TOKEN)
    assert settings["calls"] == []


@pytest.mark.parametrize("token", ["", "short", TOKEN.upper(), f"{TOKEN}x", "../abcdefghij234", 7])
def test_text_that_is_no_token_is_refused(settings, token):
    """Otherwise somebody could read or delete the mail of any address."""
    for command in (mailbox.open_, mailbox.close):
        with pytest.raises(InvalidRequest, match="expected 16 characters"):
            command(settings, token)
    with pytest.raises(InvalidRequest, match="expected 16 characters"):
        mailbox.seen(settings, token, 1, [], 0)
    assert settings["calls"] == []


def test_arrivals_are_those_of_the_run_with_their_times():
    shown = HEAD + "\n".join(
        [
            f"1764174712.M250000P9.host\t<x@_b.example.org>\t<mail.{TOKEN}@_b.example.org>",
            f"1764174713.M5P9.host\t<x@_b.example.org>\t<smtp.{TOKEN}@_b.example.org>",
            f"1764174714.M0P9.host\tx@[192.0.2.7]\t<https.{TOKEN}@192.0.2.7>",
            f"1764174715.M0P9.host\t<x@_c.example.org>\t<mail.{OTHER}@_c.example.org>",
            "1764174716.M0P9.host\t<x@_c.example.org>\t<else@_c.example.org>",
            f"strange\t<x@_c.example.org>\t<mail.{TOKEN}@_c.example.org>",
            "1764174717.M0P9.host",
            "",
        ]
    )
    assert mailbox.parse(shown, TOKEN) == {
        "_b.example.org": {"mail": 1764174712.25, "smtp": 1764174713.000005},
        "[192.0.2.7]": {"https": 1764174714.0},
    }


def test_mailbox_is_read_until_all_are_there(settings, monkeypatch):
    line = f"1764174712.M0P9.host\t<x@_b.example.org>\t<{{}}.{TOKEN}@_b.example.org>\n"
    looks = [HEAD, HEAD + line.format("mail"), HEAD + line.format("mail") + line.format("smtp")]
    monkeypatch.setattr(mailbox, "ask_program", lambda *_command: looks.pop(0))
    monkeypatch.setattr(mailbox, "PAUSE", 0)
    found = mailbox.seen(settings, TOKEN, count=2, domains=["_b.example.org"], wait=60)
    assert set(found["_b.example.org"]) == {"mail", "smtp"}
    assert looks == []


def test_mailbox_that_stays_empty_is_given_up(settings, monkeypatch):
    monkeypatch.setattr(mailbox, "ask_program", lambda *_command: HEAD)
    assert mailbox.seen(settings, TOKEN, count=2, domains=["_b.example.org"], wait=0) == {}


def test_messages_from_elsewhere_do_not_end_the_waiting(settings, monkeypatch):
    """Once, a relay sent from many domains of its own, and the mail of the others counted as lost.

    Every relay of a run knows the address.
    """
    line = "1764174712.M0P9.host\t<x@{0}>\t<mail." + TOKEN + "@{0}>\n"
    flood = "".join(line.format(f"{number}.evil.example.org") for number in range(9))
    looks = [HEAD + flood, HEAD + flood + line.format("_b.example.org")]
    monkeypatch.setattr(mailbox, "ask_program", lambda *_command: looks.pop(0))
    monkeypatch.setattr(mailbox, "PAUSE", 0)
    found = mailbox.seen(settings, TOKEN, count=1, domains=["_b.example.org"], wait=60)
    assert set(found) == {"_b.example.org"}
