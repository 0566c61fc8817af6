"""The refusals of the relay, and the fields that it removes (contract, sections 4 and 5)."""

import json
import smtplib
import socket
import ssl
import time

import dkim
import dns.resolver
import pytest
from relay.client import (
    cleartext,
    encrypted,
    imap,
    new_account,
    sent_until_refused,
    smtp,
    tls_context,
)
from support.incoming_smtp import deliver, refusal


@pytest.fixture(scope="module")
def alice(relay):
    return new_account(relay)


@pytest.fixture(scope="module")
def bob(relay):
    return new_account(relay)


@pytest.fixture
def session(relay, alice):
    with smtp(relay, alice) as connection:
        yield connection


def test_cleartext_from_a_client_is_refused(session, alice, bob):
    message = cleartext(alice.address, bob.address)
    assert refusal(session, alice.address, [bob.address], message) == (
        523,
        "Encryption Needed: Invalid Unencrypted Mail",
    )


def test_forged_from_is_refused(session, alice, bob):
    message = encrypted(bob.address, bob.address)
    assert refusal(session, alice.address, [bob.address], message) == (
        500,
        f"Invalid FROM <{bob.address}> for <{alice.address}>",
    )


def test_envelope_sender_of_somebody_else_is_refused(session, alice, bob):
    code, _ = refusal(session, bob.address, [bob.address], encrypted(bob.address, bob.address))
    assert code == 553


def test_login_is_required_to_submit(relay, alice, bob):
    with smtp(relay) as connection:
        code, _ = refusal(
            connection, alice.address, [bob.address], encrypted(*alice[:1], bob.address)
        )
        assert code in (530, 554)


def test_relaying_without_login_is_refused(relay, alice):
    code, text = deliver(
        relay, alice.address, "someone@elsewhere.example", encrypted("a@b.example", "x@y.example")
    )
    assert (code, "Relay access denied" in text) == (554, True)


def test_unencrypted_session_on_port_25_is_refused(relay, alice):
    with smtplib.SMTP(relay.domain, 25, timeout=20) as connection:
        connection.ehlo()
        code, text = connection.mail("someone@elsewhere.example")
        assert (code, b"STARTTLS" in text) == (530, True)


def test_unsigned_mail_from_elsewhere_is_refused(relay, bob):
    message = encrypted("someone@elsewhere.example", bob.address)
    assert deliver(relay, "someone@elsewhere.example", bob.address, message) == (
        554,
        "5.7.1 No DKIM signature found",
    )


def test_unknown_recipient_is_refused_on_arrival(relay):
    nobody = f"nobody000@{relay.domain}"
    code, text = deliver(
        relay, "a@elsewhere.example", nobody, encrypted("a@elsewhere.example", nobody)
    )
    assert (code, text.startswith("5.1.1")) == (550, True)


@pytest.mark.parametrize("port", [465, 993])
def test_tls_1_2_is_refused_where_clients_connect(relay, port):
    with (
        socket.create_connection((relay.domain, port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        tls_context(ssl.TLSVersion.TLSv1_2).wrap_socket(plain, server_hostname=relay.domain)


def start_tls(plain, greeting, command, ready):
    """Send a greeting and a command, each with a line as answer, on a new connection."""
    stream = plain.makefile("rwb")
    stream.readline()
    for line in filter(None, (greeting, command)):
        stream.write(line)
        stream.flush()
        while (answer := stream.readline())[3:4] == b"-":
            pass
    assert answer.startswith(ready)


@pytest.mark.parametrize(
    ("port", "conversation"),
    [
        (587, (b"EHLO client\r\n", b"STARTTLS\r\n", b"220")),
        (143, (None, b"a STARTTLS\r\n", b"a OK")),
    ],
)
def test_tls_1_2_is_refused_after_starttls(relay, port, conversation):
    with socket.create_connection((relay.domain, port), timeout=10) as plain:
        start_tls(plain, *conversation)
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            tls_context(ssl.TLSVersion.TLSv1_2).wrap_socket(plain, server_hostname=relay.domain)


@pytest.mark.parametrize("name", ["root", "postmaster@{domain}", "someone@elsewhere.example"])
@pytest.mark.parametrize("port", [25, 465])
def test_vrfy_tells_nothing(relay, alice, port, name):
    with smtp(relay, alice if port == 465 else None, port) as connection:
        connection.ehlo()
        code, _ = connection.verify(name.format(domain=relay.domain))
        assert code == 252


def test_vrfy_of_an_existing_address_tells_nothing(relay, alice, bob):
    with smtp(relay, alice) as connection:
        connection.ehlo()
        assert connection.verify(bob.address) == connection.verify(f"nobody000@{relay.domain}")


def test_sender_over_the_rate_is_asked_to_wait(relay, bob):
    """Ten messages at once, and one more each second. The number of recipients does not count."""
    eve = new_account(relay)
    message = encrypted(eve.address, bob.address)
    with smtp(relay, eve) as connection:
        began = time.monotonic()
        taken, reply = sent_until_refused(
            connection, eve.address, [bob.address, eve.address], message
        )
        assert 10 <= taken <= 10 + (time.monotonic() - began)
    assert reply == (450, f"4.7.1: Too much mail from <{eve.address}>")


def client_addresses(relay):
    """Return the addresses of this client, which a message must not contain."""
    with socket.create_connection((relay.domain, 465), timeout=10) as connection:
        return [connection.getsockname()[0]]


def test_arrived_message_tells_nothing_about_its_sender(relay, session, alice, bob):
    message = encrypted(
        alice.address,
        bob.address,
        Received="from [198.51.100.7]",
        X_Mailer="Mailer 1",
        User_Agent="Agent 1",
        X_Originating_IP="[198.51.100.7]",
        Message_ID="<arrives@localhost>",
    )
    session.sendmail(alice.address, [bob.address], message)
    stored = arrived(relay, bob, "<arrives@localhost>")
    header = stored.partition(b"\r\n\r\n")[0].decode()
    for address in [*client_addresses(relay), "198.51.100.7"]:
        assert address not in header
    names = {line.partition(":")[0].lower() for line in header.splitlines() if ":" in line}
    unwanted = {
        "received",
        "x-mailer",
        "user-agent",
        "x-originating-ip",
        "dkim-signature",
        "authentication-results",
    }
    assert names & unwanted == set()
    assert "Subject: [...]" in header


def arrived(relay, account, message_id):
    """Return the stored message with this Message-ID, waiting at most ten seconds for it."""
    with imap(relay, account) as connection:
        for _ in range(100):
            connection.select("INBOX")
            _, found = connection.uid("search", "HEADER", "Message-ID", message_id)
            if found[0]:
                _, data = connection.uid("fetch", found[0], "(BODY.PEEK[])")
                return data[0][1]
            relay.wait(0.1)
    pytest.fail(f"{message_id} did not arrive")


def test_message_in_one_long_line_is_stored_as_it_was_sent(relay, session, alice, bob):
    """Once, Postfix split lines over 998 bytes for Dovecot, and put a blank before the rest."""
    message = encrypted(alice.address, bob.address, 5000, Message_ID="<long@localhost>")
    begin, _, rest = message.partition(b"MESSAGE-----\r\n\r\n")
    text, _, end = rest.partition(b"-----END")
    message = begin + b"MESSAGE-----\r\n\r\n" + text.replace(b"\r\n", b"") + b"\r\n-----END" + end
    assert max(map(len, message.splitlines())) > 4000
    session.sendmail(alice.address, [bob.address], message)
    stored = arrived(relay, bob, "<long@localhost>")
    assert stored.partition(b"\r\n\r\n")[2] == message.partition(b"\r\n\r\n")[2]


def test_held_message_is_anonymous_and_signed(relay, session, alice):
    relay.dns_set("silent.example", "A", "198.51.100.250")
    session.sendmail(
        alice.address,
        ["someone@silent.example"],
        encrypted(alice.address, "someone@silent.example"),
    )
    queue = [json.loads(line) for line in relay.run("postqueue -j").stdout.splitlines()]
    held = next(m for m in queue if m["recipients"][0]["address"] == "someone@silent.example")
    message = relay.run(f"postcat -qhb {held['queue_id']}").stdout
    for address in client_addresses(relay):
        assert address not in message
    assert "\nSubject: [...]\n" in message
    assert "\nReceived:" not in message

    def key(name, timeout=5):
        answer = dns.resolver.resolve(name.decode().rstrip("."), "TXT", lifetime=timeout)
        return b"".join(answer[0].strings)

    wire = message.replace("\n", "\r\n").encode()
    assert dkim.verify(wire, dnsfunc=key)
    relay.run(f"postsuper -d {held['queue_id']}")
