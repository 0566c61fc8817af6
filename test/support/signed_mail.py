"""Mail from a classic server: signs it, delivers it, and looks for it."""

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
    """Return the message with a signature of `domain` by the server's key."""
    field = dkim.sign(
        message,
        SELECTOR.encode(),
        (domain or server.domain).encode(),
        server.dkim_key.pem.encode(),
        canonicalize=(b"relaxed", b"relaxed"),
    )
    return field + message


def deliver(relay, sender, recipient, message):
    """Send a message to port 25 over STARTTLS. Return code and text of the reply to DATA."""
    with smtplib.SMTP(relay.domain, 25, timeout=40) as connection:
        connection.starttls(context=tls_context())
        connection.ehlo()
        assert connection.mail(sender)[0] == 250
        assert connection.rcpt(recipient)[0] == 250
        code, text = connection.data(message)
        return code, text.decode()


def in_inbox(relay, account, message_id):
    """Tell whether the message is in the INBOX."""
    with imap(relay, account) as connection:
        connection.select("INBOX", readonly=True)
        return bool(connection.uid("search", "HEADER", "Message-ID", message_id)[1][0])


def delay(relay, recipient):
    """Return why a message to `recipient` is still in the queue, None without such a reason."""
    for line in relay.run("postqueue -j").stdout.splitlines():
        for held in json.loads(line)["recipients"]:
            if held["address"] == recipient and "delay_reason" in held:
                return held["delay_reason"]
    return None
