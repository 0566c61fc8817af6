"""The messages of a run of ping: their marks, what stays in the queue, and no address in texts."""

import json
import smtplib

import pytest
from chatmaild.health.running import Account
from chatmaild.ping import mailbox, sending

TOKEN = "abcdefghij234567"
SENDER = Account("sender123@_a.example.org", "very-secret")
SETTINGS = {
    "address_domain": "_a.example.org",
    "mail_domain": "_a.example.org",
    "hostname": "_a.example.org",
    "dkim_required": True,
}


def queued(reason=None, sender=SENDER.address):
    recipient = {"address": f"{TOKEN}@_b.example.org"}
    if reason:
        recipient["delay_reason"] = reason
    return {"sender": sender, "recipients": [recipient]}


@pytest.fixture
def sent(monkeypatch):
    """Replace what needs daemons: sender, submission, straight ways, queue. Return the list."""
    queue, removed = [], []
    straight = {"_b.example.org": {"https": 0.1, "smtp": f"550 <{TOKEN}@_b.example.org> no"}}

    async def go_straight(*_arguments):
        return straight

    def make_one(state):
        state.made.append(SENDER)
        return SENDER

    monkeypatch.setattr(sending.throwaway, "make_one", make_one)
    monkeypatch.setattr(sending.throwaway, "remove", removed.append)
    monkeypatch.setattr(sending, "_submit", lambda *_arguments: {"sent": 1.0})
    monkeypatch.setattr(sending, "_go_straight", go_straight)
    monkeypatch.setattr(sending, "list_queue", lambda: queue)
    return queue, removed


def send(wait=0):
    return sending.send(SETTINGS, TOKEN, ["_b.example.org"], wait)


def test_mail_that_waits_is_told_with_its_reason_and_no_address(sent):
    queue, removed = sent
    queue += [queued(f"host refused {TOKEN}@_b.example.org of {SENDER.address}")]
    queue += [queued("somebody else's", sender="user@_a.example.org")]
    found = send()
    assert found["left"] == {"_b.example.org": "host refused <address>@_b.example.org of <address>"}
    assert found["straight"]["_b.example.org"]["smtp"] == "550 <<address>@_b.example.org> no"
    assert TOKEN not in json.dumps(found)
    assert SENDER.address not in json.dumps(found)
    assert len(removed) == 1


def test_sender_is_removed_also_when_the_program_breaks(sent, monkeypatch):
    _queue, removed = sent
    monkeypatch.setattr(sending, "list_queue", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        send()
    assert len(removed) == 1


def test_refused_submission_is_an_answer(monkeypatch):
    def refuse(*_arguments):
        raise smtplib.SMTPConnectError(421, b"too many connections")

    monkeypatch.setattr(sending.connections, "smtp", refuse)
    found = sending._submit(SETTINGS, SENDER, TOKEN, ["_b.example.org"])
    assert "421 too many connections" in found["error"]


def test_message_as_a_user_sends_it_is_encrypted_and_marked():
    text = sending.make_message(SETTINGS, SENDER.address, "x@_b.example.org", "mail", TOKEN)
    marked = mailbox.MESSAGE_ID.search(text.decode())
    assert marked.groups() == ("mail", TOKEN)
    assert b"DKIM-Signature" not in text
    assert b"BEGIN PGP MESSAGE" in text


def test_relay_without_a_domain_signs_nothing():
    settings = {**SETTINGS, "dkim_required": False, "address_domain": "[192.0.2.7]"}
    text = sending.make_message(settings, "x@[192.0.2.7]", "x@_b.example.org", "smtp", TOKEN)
    assert b"DKIM-Signature" not in text
    assert f"<smtp.{TOKEN}@192.0.2.7>".encode() in text
