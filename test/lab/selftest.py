#!/usr/bin/python3
"""Use a relay like two clients: `selftest.py DOMAIN [TIMEOUT]`, which `lab client` runs.

The program makes two accounts through /new and logs them in. It sends an encrypted message from the
first to the second, and waits for the message in IDLE. It prints the first account as JSON: the
answer of /new, and the time of the message under `seconds`. It needs only the standard library, so
a fresh machine can run it.
"""

import base64
import email.utils
import imaplib
import json
import os
import smtplib
import ssl
import sys
import time
import urllib.request

# Seconds for each connection, and for the message.
TIMEOUT = int(sys.argv[2]) if len(sys.argv) > 2 else 30

MESSAGE = """\
From: <{sender}>
To: <{recipient}>
Date: {date}
Message-ID: {id}
Subject: [...]
MIME-Version: 1.0
Content-Type: multipart/encrypted; protocol="application/pgp-encrypted"; boundary="b"

--b
Content-Type: application/pgp-encrypted

Version: 1

--b
Content-Type: application/octet-stream

-----BEGIN PGP MESSAGE-----

{armor}
-----END PGP MESSAGE-----

--b--
"""


def self_signed():
    """Return a TLS context that accepts any certificate, such as that of a test domain."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def new_account(domain):
    """Ask the relay for an address, like a client that scanned its QR code."""
    request = urllib.request.Request(f"https://{domain}/new", method="POST")
    with urllib.request.urlopen(request, timeout=TIMEOUT, context=self_signed()) as answer:
        return json.load(answer)


def login(domain, account):
    """Log in by IMAP and open the inbox. The first login creates the address."""
    client = imaplib.IMAP4_SSL(domain, ssl_context=self_signed(), timeout=TIMEOUT)
    client.login(account["email"], account["password"])
    client.select()
    return client


def encrypted_message(sender, recipient):
    """Return a message in the form of RFC 3156, with random bytes in its packets."""
    session_key = b"\x03" + os.urandom(8) + b"\x01" + os.urandom(64)  # RFC 4880, 5.1
    content = b"\x01" + os.urandom(400)  # 5.13
    packets = packet(1, session_key) + packet(18, content)
    return MESSAGE.format(
        sender=sender,
        recipient=recipient,
        date=email.utils.formatdate(),
        id=email.utils.make_msgid(domain=sender.partition("@")[2].strip("[]")),
        armor=base64.encodebytes(packets).decode().strip(),
    )


def packet(tag, body):
    """Return an OpenPGP packet in the new format, for less than 8384 bytes (RFC 4880, 4.2.2)."""
    length = len(body)
    if length < 192:
        return bytes([0xC0 | tag, length]) + body
    first, second = divmod(length - 192, 256)
    return bytes([0xC0 | tag, first + 192, second]) + body


def send(domain, account, recipient):
    """Submit one encrypted message on port 465."""
    with smtplib.SMTP_SSL(domain, 465, timeout=TIMEOUT, context=self_signed()) as client:
        client.login(account["email"], account["password"])
        text = encrypted_message(account["email"], recipient)
        client.sendmail(account["email"], [recipient], text.replace("\n", "\r\n"))


def await_message(client):
    """Wait in IDLE (RFC 2177) until the server reports a message."""
    client.send(b"idle IDLE\r\n")
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if b"EXISTS" in client.readline():
            return
    raise TimeoutError(f"no message within {TIMEOUT} s")


def main():
    """Run the test against the domain on the command line."""
    domain = sys.argv[1]
    alice, bob = new_account(domain), new_account(domain)
    login(domain, alice).logout()
    inbox = login(domain, bob)
    started = time.monotonic()
    send(domain, alice, bob["email"])
    await_message(inbox)
    print(json.dumps({**alice, "seconds": round(time.monotonic() - started, 2)}))


if __name__ == "__main__":
    main()
