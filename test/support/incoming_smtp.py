"""Sends messages to port 25 as another relay does, and reads the refusal."""

import smtplib

import pytest
from relay.client import tls_context


def refusal(connection, sender, recipients, message):
    """Return (code, text) of the refusal. The test fails if the message is accepted."""
    try:
        connection.sendmail(sender, recipients, message)
    except smtplib.SMTPRecipientsRefused as error:
        code, text = next(iter(error.recipients.values()))
    except smtplib.SMTPResponseException as error:
        code, text = error.smtp_code, error.smtp_error
    else:
        pytest.fail("accepted")
    return code, text.decode()


def deliver(relay, sender, recipient, message):
    """Send a message to port 25 over STARTTLS, and return the refusal."""
    with smtplib.SMTP(relay.domain, 25, timeout=20) as connection:
        connection.starttls(context=tls_context())
        return refusal(connection, sender, [recipient], message)
