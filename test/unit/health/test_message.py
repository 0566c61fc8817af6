"""The messages of the check: the relay's own rules accept the encrypted one, and no other."""

import pytest
from chatmaild.common.refusals import Refusal
from chatmaild.filter import rules
from chatmaild.health import message

ALICE, BOB = "alice@_chat.example.org", "bob@_chat.example.org"


@pytest.mark.parametrize("sender", [ALICE, "alice@[192.0.2.1]"])
def test_encrypted_message_passes_the_rules_on_both_ways(sender):
    fields, body = message.encrypted(sender, BOB)
    assert rules.check_submission(sender, fields, body) == "encrypted"
    author, kind = rules.check_incoming(sender, [BOB], fields, body, lambda: False)
    assert (author, kind) == (sender, "encrypted")


def test_what_must_be_refused_has_the_fault_that_it_should_have():
    with pytest.raises(Refusal) as cleartext:
        rules.check_submission(ALICE, *message.cleartext(ALICE, BOB))
    assert cleartext.value.code == "523"
    with pytest.raises(Refusal) as forged:
        rules.check_submission(ALICE, *message.encrypted(ALICE, BOB, BOB))
    assert forged.value.code == "500"


def test_message_has_the_form_of_rfc_5322_and_no_two_are_alike():
    texts = [message.render(*message.encrypted(ALICE, BOB)) for _ in range(2)]
    assert texts[0] != texts[1]
    head, _, body = texts[0].partition(b"\r\n\r\n")
    assert f"From: <{ALICE}>".encode() in head.split(b"\r\n")
    assert body.startswith(b"--")
    assert not rules.has_bare_line_end(texts[0])
    assert max(map(len, texts[0].split(b"\r\n"))) < 998
