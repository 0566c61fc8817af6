"""A relay that is a bare IPv4 address: user@[192.0.2.1], no DNS, no DKIM (contract, section 1)."""

import email
import ipaddress
import smtplib
import ssl

import pytest
from cryptography import x509
from relay.client import (
    cleartext,
    encrypted,
    imap,
    invitation,
    new_account,
    smtp,
    tls_context,
)
from support.converging import APPLY, not_as_expected, states
from support.delta_chat import core, online_account, talk

ELSEWHERE = "someone@elsewhere.example"


@pytest.fixture(scope="module")
def alice(ip_relay):
    return new_account(ip_relay)


@pytest.fixture(scope="module")
def bob(ip_relay):
    return new_account(ip_relay)


def deliver(relay, sender, recipient, message):
    """Send a message to port 25 like another relay; return None or (code, text)."""
    with smtplib.SMTP(relay.ip, 25, timeout=20) as connection:
        connection.starttls(context=tls_context())
        try:
            connection.sendmail(sender, [recipient], message)
        except smtplib.SMTPRecipientsRefused as error:
            code, text = error.recipients[recipient]
        except smtplib.SMTPResponseException as error:
            code, text = error.smtp_code, error.smtp_error
        else:
            return None
        return code, text.decode()


def messages_from(relay, account, sender, seconds=10):
    """Wait for messages from sender in the INBOX; return them."""

    def look():
        with imap(relay, account) as connection:
            connection.select("INBOX", readonly=True)
            _, found = connection.search(None, "FROM", f'"{sender}"')
            return [connection.fetch(each, "(BODY[])")[1][0][1] for each in found[0].split()]

    return relay.wait_until(look, seconds)


def test_second_converge_changes_nothing(ip_relay):
    assert not_as_expected(states(ip_relay.run(f"{APPLY} --out=json"))) == {}


def test_certificate_names_the_address(ip_relay):
    pem = ssl.get_server_certificate((ip_relay.ip, 993), timeout=10)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.IPAddress(ipaddress.ip_address(ip_relay.ip))]


def test_invitation_says_where_the_servers_are(ip_relay):
    """No client can look up `[192.0.2.1]`, so the link names the hosts."""
    found = invitation(ip_relay)
    address, password, ip = found["email"], found["password"], ip_relay.ip
    assert address.endswith(f"@[{ip}]")
    assert found["dclogin_url"] == f"dclogin:{address}?p={password}&v=1&ih={ip}&sh={ip}&ic=3"


def test_message_between_two_accounts_arrives_unsigned(ip_relay, alice, bob):
    with smtp(ip_relay, alice) as connection:
        connection.sendmail(alice.address, [bob.address], encrypted(alice.address, bob.address))
    (message,) = messages_from(ip_relay, bob, alice.address)
    assert b"DKIM-Signature" not in message


@pytest.mark.parametrize("sender", [ELSEWHERE, "someone@[198.51.100.7]"])
def test_encrypted_mail_from_elsewhere_needs_no_signature(ip_relay, alice, sender):
    assert deliver(ip_relay, sender, alice.address, encrypted(sender, alice.address)) is None
    assert messages_from(ip_relay, alice, sender)


def test_cleartext_from_elsewhere_is_refused(ip_relay, alice):
    refusal = deliver(ip_relay, ELSEWHERE, alice.address, cleartext(ELSEWHERE, alice.address))
    assert refusal == (523, "Encryption Needed: Invalid Unencrypted Mail")


@pytest.mark.parametrize(
    ("domain", "code"),
    [
        ("[198.51.100.7]", 554),
        ("elsewhere.example", 554),
        ("[{ip}]", 550),
        ("{ip}", 501),
        ("[127.0.0.1]", 550),
        ("[IPv6:::1]", 550),
    ],
)
def test_recipient_that_is_not_here_is_refused_on_arrival(ip_relay, domain, code):
    """For Postfix all addresses at the machine are local, so it could accept mail and bounce it."""
    nobody = f"nobody000@{domain.format(ip=ip_relay.ip)}"
    refusal = deliver(ip_relay, ELSEWHERE, nobody, encrypted(ELSEWHERE, nobody))
    assert refusal is not None
    assert refusal[0] == code, refusal


def test_bounce_comes_from_the_literal(ip_relay, alice):
    ip_relay.dns_set("refuses.example", "MX", "0 .")  # RFC 7505: takes no mail
    nobody = "nobody000@refuses.example"
    with smtp(ip_relay, alice) as connection:
        connection.sendmail(alice.address, [nobody], encrypted(alice.address, nobody))
    bounce, *_ = messages_from(ip_relay, alice, "MAILER-DAEMON", 30)
    sender = email.message_from_bytes(bounce)["From"]
    assert f"MAILER-DAEMON@[{ip_relay.ip}]" in sender


def test_two_delta_chat_accounts_talk(ip_relay, tmp_path):
    with core(tmp_path) as chat:
        talk(*(online_account(chat, ip_relay, name) for name in ("Alice", "Bob")), tmp_path)
