"""The frame: what becomes of a step that succeeds, fails, or cannot be asked."""

import imaplib
import smtplib

import pytest
from chatmaild.health.running import Account, Failed, NotAsked, Step, run_step

SECRET = Account("abcdefghi@_chat.example.org", "very-secret")


def raising(error):
    def ask(_state):
        raise error

    return ask


def run(state, ask, *units):
    return run_step(Step("a step", ask, "Do this", units), state)


def test_step_that_succeeds_says_what_it_found(state):
    found = run(state, lambda _: "all is well")
    assert found.pop("seconds") >= 0
    assert found == {"name": "a step", "result": True, "comment": "all is well"}


def test_step_that_fails_says_what_to_do(state):
    found = run(state, raising(Failed("two were found; expected: one")))
    assert found["result"] is False
    assert found["comment"] == "two were found; expected: one. Do this"


def test_step_that_cannot_be_asked_is_no_failure(state):
    found = run(state, raising(NotAsked("there is none")))
    assert (found["result"], found["comment"]) == (None, "not asked: there is none")


def test_step_whose_unit_does_not_run_is_not_asked(state):
    state.units = {"nginx": "active", "coturn": "failed"}
    assert run(state, lambda _: "", "nginx")["result"] is True
    for unit, is_ in (("coturn", "failed"), ("dovecot", "not installed")):
        found = run(state, raising(AssertionError("was asked")), "nginx", unit)
        assert found["result"] is None
        assert found["comment"] == f"not asked: {unit} is {is_} (see the step units)"


def test_dns_is_left_out_when_offline(state):
    assert "offline=True" in run(state, lambda state: state.needs_dns())["comment"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "no answer in time"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (smtplib.SMTPDataError(523, b"Encryption\nNeeded"), "answered 523 Encryption Needed"),
        (smtplib.SMTPRecipientsRefused({"a@b": (450, b"wait")}), "answered 450 wait"),
        (smtplib.SMTPServerDisconnected("Connection closed"), "Connection closed"),
        (imaplib.IMAP4.error(b"[AUTHENTICATIONFAILED] no"), "AUTHENTICATIONFAILED"),
        (KeyError("name"), "KeyError: 'name'"),
    ],
)
def test_every_error_is_described_on_one_line(state, error, said):
    found = run(state, raising(error))
    assert found["result"] is False
    assert said in found["comment"]
    assert found["comment"].endswith(". Do this")
    assert "\n" not in found["comment"]


def test_comments_show_neither_an_address_nor_a_password(state):
    state.made.append(SECRET)
    for error in (Failed, NotAsked, OSError):
        found = run(state, raising(error(f"{SECRET.address} has {SECRET.password}")))
        assert "<address> has <password>" in found["comment"]
        assert SECRET.address not in str(found)
        assert SECRET.password not in str(found)
