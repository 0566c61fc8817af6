"""Messages handed to port 25 as another relay would, and how they are refused."""

import smtplib

import pytest
from relay.client import tls_context


def refusal(connection, sender, recipients, message):
    """Return (code, text) of the refusal; a message that is accepted fails the test."""
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
    """Hand message to port 25 as another relay would, over STARTTLS."""
    with smtplib.SMTP(relay.domain, 25, timeout=20) as connection:
        connection.starttls(context=tls_context())
        return refusal(connection, sender, [recipient], message)
