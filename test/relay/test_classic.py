"""A relay and a classic mail server exchange mail, with the TLS that each requires.

The server signs and verifies with OpenDKIM. For messages that OpenDKIM would never send, the test
host signs with dkimpy and the same key, and sends to the relay's port 25 itself.
"""

import contextlib
import re

import pytest
from relay.classic import new_certificate
from relay.client import cleartext, encrypted, new_account, smtp
from support.signed_mail import delay, deliver, in_inbox, new_id, signed

NO_SIGNATURE = (554, "5.7.1 No DKIM signature found")
NO_VALID_SIGNATURE = (554, "5.7.1 No valid DKIM signature found")


@pytest.fixture(scope="module")
def alice(relay):
    return new_account(relay)


# From the classic server.


def test_cleartext_from_classic_server_is_refused(relay, classic, alice):
    message_id = new_id()
    classic.send(alice.address, cleartext(classic.address, alice.address, Message_ID=message_id))
    outcome = classic.outcome(message_id)
    assert "status=bounced" in outcome
    assert "said: 523 Encryption Needed: Invalid Unencrypted Mail" in outcome


def test_encrypted_mail_signed_by_opendkim_arrives(relay, classic, alice):
    message_id = new_id()
    classic.send(alice.address, encrypted(classic.address, alice.address, Message_ID=message_id))
    assert "status=sent" in classic.outcome(message_id)
    relay.wait_until(lambda: in_inbox(relay, alice, message_id))


def test_signature_of_the_test_host_is_accepted(relay, classic, alice):
    """The refusals below use the same message with one fault. This one has no fault."""
    message = signed(encrypted(classic.address, alice.address), classic)
    assert deliver(relay, classic.address, alice.address, message)[0] == 250


def test_message_without_signature_is_refused(relay, classic, alice):
    message = encrypted(classic.address, alice.address)
    assert deliver(relay, classic.address, alice.address, message) == NO_SIGNATURE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Version: 1\r\n", b"Version: 1 \r\n\r\n"),
        (b"Subject: a", b"Subject: another"),
    ],
    ids=["body", "subject"],
)
def test_message_changed_after_signing_is_refused(relay, classic, alice, old, new):
    message = signed(encrypted(classic.address, alice.address), classic)
    assert message.count(old) == 1
    changed = message.replace(old, new)
    assert deliver(relay, classic.address, alice.address, changed) == NO_VALID_SIGNATURE


@pytest.mark.parametrize("author", ["carol@sub.{0}", "carol@another.example"])
def test_signature_of_another_domain_is_refused(relay, classic, alice, author):
    """The signature is valid, but its d= is not exactly the domain of From."""
    author = author.format(classic.domain)
    message = signed(encrypted(author, alice.address), classic)
    assert deliver(relay, author, alice.address, message) == NO_VALID_SIGNATURE


def test_message_whose_key_dns_does_not_answer_for_is_deferred(relay, classic, alice):
    """The lab's bogus.example fails DNSSEC validation, so the relay's resolver says SERVFAIL."""
    author = "someone@bogus.example"
    message = signed(encrypted(author, alice.address), classic, "bogus.example")
    code, text = deliver(relay, author, alice.address, message)
    assert (code, text) == (451, "4.7.1 DKIM key lookup failed, try again later")


def test_bounce_comes_back_signed(relay, classic):
    """The relay accepts mail for a mailbox that Dovecot then refuses; its report must be signed."""
    broken = new_account(relay)
    mailbox = f"{relay.salt('chatmail_relay.settings')['mailboxes_dir']}/{broken.address}"
    # The filter refuses a blocked address at once, but does not read the file. Dovecot reads it.
    relay.run(f"echo no hash > {mailbox}/password")
    message_id = new_id()
    classic.send(broken.address, encrypted(classic.address, broken.address, Message_ID=message_id))
    assert "status=sent" in classic.outcome(message_id)
    bounce = classic.await_arrival(message_id)
    relay.run(f"rm -r {mailbox}")
    assert "multipart/report" in bounce
    assert verdicts(bounce, relay.domain) == {"rsa-sha256": "pass", "ed25519-sha256": "pass"}


def verdicts(message, domain):
    """Return OpenDKIM's results for the signatures of a domain, by algorithm."""
    header = re.sub(r"\n\s+", " ", message.partition("\n\n")[0])
    results = " ".join(re.findall(r"^Authentication-Results: (.*)", header, re.MULTILINE))
    results = re.sub(r"\([^)]*\)", "", results)  # comments: `(2048-bit key; unprotected)`
    pattern = r"dkim=(\w+)[^;]*header\.d=(\S+)[^;]*header\.a=([\w-]+)"
    found = re.findall(pattern, results)
    return {algorithm: verdict for verdict, of, algorithm in found if of == domain}


# To the classic server.


def mentions(message, address):
    """Return whether an IP address, and not only a longer one, is in a message."""
    return bool(re.search(rf"(?<![\w.]){re.escape(address)}(?![\w.:])", message))


def own_addresses(relay):
    """Return all IP addresses of this host in the lab. The clients run on this host."""
    shown = relay.client("ip", "-o", "addr", "show", "scope", "global").stdout
    return re.findall(r"inet6? ([^/ ]+)", shown)


def submit(relay, account, recipient):
    """Send an encrypted message from a client; return its Message-ID."""
    message_id = new_id()
    with smtp(relay, account) as connection:
        message = encrypted(account.address, recipient, Message_ID=message_id)
        connection.sendmail(account.address, [recipient], message)
    return message_id


def test_mail_from_a_client_passes_opendkim(relay, classic, alice):
    message = classic.await_arrival(submit(relay, alice, classic.address))
    assert verdicts(message, relay.domain) == {"rsa-sha256": "pass", "ed25519-sha256": "pass"}


def test_mail_from_a_client_has_no_address_of_it(relay, classic, alice):
    message = classic.await_arrival(submit(relay, alice, classic.address))
    assert mentions(message, relay.ip), "the server's own Received names whom it got it from"
    found = own_addresses(relay)
    assert found
    assert not [address for address in found if mentions(message, address)]


# Certificates of the classic server.


@contextlib.contextmanager
def serving(classic, certificate):
    """Let the server use a certificate, and a valid one again afterwards."""
    classic.serve(certificate)
    try:
        yield
    finally:
        classic.serve(classic.good_certificate())


FAULTS = {
    "expired": (lambda server: new_certificate(server.domain, server.authority, -1), "expired"),
    "self-signed": (lambda server: new_certificate(server.domain), "self-signed"),
    "wrong-name": (lambda server: new_certificate("x.example", server.authority), "not valid for"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_certificate_defers_mail_to_a_normal_domain_only(relay, classic, alice, fault):
    """The deferred message arrives as soon as the certificate is good."""
    make, reason = FAULTS[fault]
    recipient = f"carol+{fault}@{classic.domain}"
    with serving(classic, make(classic)):
        to_test_domain = submit(relay, alice, f"carol@{classic.test_domain}")
        deferred = submit(relay, alice, recipient)
        assert reason in relay.wait_until(lambda: delay(relay, recipient))
        classic.await_arrival(to_test_domain)
        assert not classic.arrived(deferred)
    relay.run("postqueue -f")
    classic.await_arrival(deferred)
