"""Domains with which a relay exchanges no mail, and the messages to people on both sides."""

import contextlib
import json
import urllib.error
import urllib.request

import pytest
from relay.classic import SELECTOR
from relay.client import cleartext, encrypted, imap, new_account, smtp, tls_context
from support.signed_mail import delay, deliver, in_inbox, new_id, signed


@pytest.fixture(scope="module")
def alice(relay):
    return new_account(relay)


@pytest.fixture(scope="module")
def bob(relay):
    return new_account(relay)


def apply(relay, **pillar):
    """Apply the services with further pillar."""
    states = relay.salt("state.apply", "chatmail.services", f"pillar={json.dumps(pillar)}")
    assert [each["comment"] for each in states.values() if each["result"] is False] == []


@contextlib.contextmanager
def federation(relay, **lists):
    """Let the relay use these lists, and none afterwards."""
    try:
        apply(relay, chatmail={"federation": lists})
        yield
    finally:
        apply(relay)


def submit(relay, account, *recipients):
    """Send one encrypted message to all recipients; return its Message-ID."""
    message_id = new_id()
    with smtp(relay, account) as connection:
        message = encrypted(account.address, recipients[0], Message_ID=message_id)
        assert connection.sendmail(account.address, recipients, message) == {}
    return message_id


def bounce(relay, account, message_id):
    """Wait for the report about a message in the INBOX; return it."""

    def found():
        with imap(relay, account) as connection:
            connection.select("INBOX", readonly=True)
            query = ("HEADER", "From", "mailer-daemon", "TEXT", message_id)
            uids = connection.uid("search", *query)[1][0].split()
            return uids and connection.uid("fetch", uids[0], "(BODY.PEEK[])")[1][0][1].decode()

    report = relay.wait_until(found)
    return " ".join(report.split())  # Postfix folds the text that it quotes


def post(relay, sender, recipient, message):
    """Hand a message to /mxdeliv; return status and body of the answer."""
    envelope = {"X-Mail-From": sender, "X-Mail-To": recipient}
    url = f"https://{relay.domain}/mxdeliv"
    request = urllib.request.Request(url, data=message, headers=envelope)
    try:
        with urllib.request.urlopen(request, timeout=20, context=tls_context()) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def waiting(relay, classic, alice):
    """The Message-ID of a message that waits for the classic server when the relay blocks it."""
    relay.run("systemctl stop chatmail-transport")
    message_id = submit(relay, alice, classic.address)
    relay.wait_until(lambda: delay(relay, classic.address))
    return message_id


@pytest.fixture(scope="class")
def lists(relay, classic, waiting):
    """Both lists: all names below `example` are allowed, except the classic server's domain."""
    with federation(relay, block=[classic.domain.upper()], allow=["example", classic.test_domain]):
        yield


def takes_no_mail(domain):
    return f"This relay takes no mail from {domain}"


def sends_no_mail(domain):
    return f"550 5.7.1 This relay sends no mail to {domain}"


@pytest.mark.usefixtures("lists")
class TestWithLists:
    """The behaviour of the relay with both lists."""

    def test_server_of_a_blocked_domain_is_told_by_smtp(self, classic, alice):
        message_id = new_id()
        message = encrypted(classic.address, alice.address, Message_ID=message_id)
        classic.send(alice.address, message)
        outcome = classic.outcome(message_id)
        assert "status=bounced" in outcome
        assert f"said: 554 5.7.1 {takes_no_mail(classic.domain)}" in outcome

    @pytest.mark.parametrize("author", ["carol@{}", "carol@sub.{}", "MAILER-DAEMON@{}"])
    def test_relay_of_a_blocked_domain_is_told_by_https(self, relay, classic, alice, author):
        """The message has no signature, because the sender's DNS does not matter here."""
        author = author.format(classic.domain)
        status, text = post(relay, "", alice.address, cleartext(author, alice.address))
        assert (status, text[:10]) == (400, "554 5.7.1 ")
        assert text.endswith(f"{takes_no_mail(author.partition('@')[2])}\n")

    def test_domain_that_is_not_allowed_is_refused_both_ways(self, relay, alice):
        author = "someone@elsewhere.invalid"
        answer = deliver(relay, author, alice.address, encrypted(author, alice.address))
        assert answer == (554, f"5.7.1 {takes_no_mail('elsewhere.invalid')}")
        report = bounce(relay, alice, submit(relay, alice, author))
        assert sends_no_mail("elsewhere.invalid") in report

    def test_look_alike_of_a_blocked_domain_is_taken(self, relay, classic, alice):
        domain = f"not{classic.domain}"
        key = f"{SELECTOR}._domainkey.{domain}"
        relay.dns_set(key, "TXT", classic.dkim_key.record)
        message = signed(encrypted(f"carol@{domain}", alice.address), classic, domain)
        assert deliver(relay, f"carol@{domain}", alice.address, message)[0] == 250
        relay.dns_del(key)

    def test_blocked_recipient_bounces_and_the_others_get_theirs(self, relay, classic, alice, bob):
        """One of the others is here. One has an allowed domain, which leads to the same server."""
        reachable = f"carol@{classic.test_domain}"
        message_id = submit(relay, alice, classic.address, reachable, bob.address)
        relay.wait_until(lambda: in_inbox(relay, bob, message_id))
        assert f"X-Original-To: {reachable}" in classic.await_arrival(message_id)
        report = bounce(relay, alice, message_id)
        assert sends_no_mail(classic.domain) in report
        assert f"<{classic.address}>" in report
        assert f"<{reachable}>" not in report

    def test_what_was_queued_before_the_block_bounces(self, relay, classic, alice, waiting):
        relay.run("postqueue -f")
        assert sends_no_mail(classic.domain) in bounce(relay, alice, waiting)
        assert not classic.arrived(waiting)


def test_without_the_lists_all_domains_are_exchanged_with_again(relay, classic, alice):
    message_id = new_id()
    classic.send(alice.address, encrypted(classic.address, alice.address, Message_ID=message_id))
    assert "status=sent" in classic.outcome(message_id)
    for recipient in (classic.address, f"carol@{classic.test_domain}"):
        classic.await_arrival(submit(relay, alice, recipient))
