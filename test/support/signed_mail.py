"""Mail from a classic server: signed, handed over, and looked for."""

import json
import smtplib
import uuid

import dkim
from relay.classic import SELECTOR
from relay.client import imap, tls_context


def new_id():
    """Return a Message-ID that no other message has."""
    return f"<{uuid.uuid4()}@test>"


def signed(message, server, domain=None):
    """Sign with the server's key, as `domain`."""
    field = dkim.sign(
        message,
        SELECTOR.encode(),
        (domain or server.domain).encode(),
        server.dkim_key.pem.encode(),
        canonicalize=(b"relaxed", b"relaxed"),
    )
    return field + message


def deliver(relay, sender, recipient, message):
    """Hand a message to port 25 over STARTTLS; return code and text of the answer to it."""
    with smtplib.SMTP(relay.domain, 25, timeout=40) as connection:
        connection.starttls(context=tls_context())
        connection.ehlo()
        assert connection.mail(sender)[0] == 250
        assert connection.rcpt(recipient)[0] == 250
        code, text = connection.data(message)
        return code, text.decode()


def in_inbox(relay, account, message_id):
    """Return whether the message is in the INBOX."""
    with imap(relay, account) as connection:
        connection.select("INBOX", readonly=True)
        return bool(connection.uid("search", "HEADER", "Message-ID", message_id)[1][0])


def delay(relay, recipient):
    """Return why the relay holds a message to `recipient` back; None if it does not, or not yet."""
    for line in relay.run("postqueue -j").stdout.splitlines():
        for held in json.loads(line)["recipients"]:
            if held["address"] == recipient and "delay_reason" in held:
                return held["delay_reason"]
    return None
