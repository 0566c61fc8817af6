"""A mail client for tests: accounts, logins, and messages encrypted by a real OpenPGP library."""

import email.utils
import imaplib
import json
import secrets
import smtplib
import ssl
import urllib.request
from functools import cache
from typing import NamedTuple

import pysequoia
import pytest


class Account(NamedTuple):
    """An address and its password."""

    address: str
    password: str


def tls_context(maximum=ssl.TLSVersion.TLSv1_3):
    """Return a TLS context that accepts a self-signed certificate, like clients of test domains."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # A probe with an old protocol must not fail on this side.
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = maximum
    return context


def invitation(relay):
    """Return the answer of `POST /new`: `email`, `password`, and on some relays `dclogin_url`."""
    request = urllib.request.Request(f"https://{relay.domain}/new", method="POST")
    with urllib.request.urlopen(request, timeout=10, context=tls_context()) as answer:
        return json.load(answer)


def new_credentials(relay):
    """Return a new Account from `POST /new`. The first login creates the address."""
    fresh = invitation(relay)
    return Account(fresh["email"], fresh["password"])


def login_link(relay):
    """Return a fresh account as a link by which Delta Chat takes the relay's certificate."""
    fresh = invitation(relay)
    by_hand = f"dclogin:{fresh['email']}?p={fresh['password']}&v=1&ic=3"
    link = fresh.get("dclogin_url", by_hand)
    # Delta Chat asks the DNS itself, unless the link names both servers.
    return link if relay.in_dns else f"{link}&ih={relay.ip}&sh={relay.ip}&ic=3"


def imap(relay, account=None, port=993, tls=None):
    """Return an IMAP connection, logged in as account when one is given; tls: client's settings."""
    tls = tls or tls_context()
    connection = imaplib.IMAP4_SSL(relay.domain, port, ssl_context=tls, timeout=20)
    if account:
        connection.login(*account)
    return connection


def smtp(relay, account=None, port=465):
    """Return an SMTP connection over TLS, logged in as account when one is given."""
    if port == 465:
        connection = smtplib.SMTP_SSL(relay.domain, port, timeout=20, context=tls_context())
    else:
        connection = smtplib.SMTP(relay.domain, port, timeout=20)
        connection.starttls(context=tls_context())
    if account:
        connection.login(*account)
    return connection


def new_account(relay):
    """Return an Account whose address exists, because it has logged in."""
    account = new_credentials(relay)
    imap(relay, account).logout()
    return account


def dashed_account(relay):
    """Return an Account whose address begins with `-`, like an option of a command."""
    account = Account(f"-{secrets.token_hex(4)}@{relay.domain}", secrets.token_hex(8))
    imap(relay, account).logout()
    return account


@cache
def _certificate():
    return pysequoia.Tsk.generate("Test <test@example.org>").extract_certificate()


@cache
def _ciphertext(size):
    return bytes(pysequoia.encrypt(recipients=[_certificate()], bytes=b"x" * size)).decode("ascii")


def encrypted(sender, recipient, size=100, **headers):
    """
    Return an RFC 3156 message from sender to recipient, with `size` bytes of cleartext.

    headers: further header fields, with `_` for `-` in the name. A field that is None is left out.
    """
    fields = {
        "From": f"<{sender}>",
        "To": f"<{recipient}>",
        "Date": email.utils.formatdate(),
        "Message-ID": email.utils.make_msgid(domain="localhost"),
        "Subject": "a subject that nobody else shall see",
        "MIME-Version": "1.0",
        "Content-Type": (
            'multipart/encrypted; protocol="application/pgp-encrypted"; boundary="bound"'
        ),
    }
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    lines += ["", "--bound", "Content-Type: application/pgp-encrypted", "", "Version: 1", ""]
    lines += ["--bound", "Content-Type: application/octet-stream", ""]
    lines += [*_ciphertext(size).strip().splitlines(), "--bound--", ""]
    return "\r\n".join(lines).encode()


def cleartext(sender, recipient, **headers):
    """Return a message without encryption."""
    fields = {
        "From": f"<{sender}>",
        "To": f"<{recipient}>",
        "Subject": "hello",
        "Content-Type": "text/plain",
    }
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([*lines, "", "Hello, world", ""]).encode()


def sent_until_refused(connection, sender, recipients, message):
    """Send until the relay refuses; return the number of accepted messages and the refusal."""
    for number in range(100):
        try:
            connection.sendmail(sender, recipients, message)
        except smtplib.SMTPRecipientsRefused as error:
            code, text = next(iter(error.recipients.values()))
            return number, (code, text.decode())
    pytest.fail("a hundred messages were accepted")
    return None
