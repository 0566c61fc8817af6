"""The raw client of the figures: it speaks just enough SMTP and IMAP to be no part of them."""

import base64
import functools
import re
import secrets
import socket
import time
from types import SimpleNamespace

from relay.client import Account, tls_context
from support.idle_client import IdleClient
from support.messages import random_body

TLS = tls_context()

ask_dns = functools.cache(socket.gethostbyname)


def host_of(account):
    """Return the IPv4 address of an account's relay. The DNS is asked once, not for each login."""
    return ask_dns(account.address.rpartition("@")[2])


def fresh_account(domain):
    """Return an Account that nobody has yet. Its first login creates it, on other relays too."""
    return Account(f"{secrets.token_hex(5)[:9]}@{domain}", secrets.token_hex(8))


def message(sender, recipient, size=10_000):
    """Return an encrypted message of about `size` bytes, unlike any other, with its last dot."""
    header = (
        f"From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: ...\r\n"
        "Date: Sun, 22 Nov 2026 12:00:00 +0000\r\n"
        f"Message-ID: <{secrets.token_hex(12)}@localhost>\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/encrypted; protocol="application/pgp-encrypted";\r\n'
        '\tboundary="=_edge"\r\n\r\n'
    )
    return header.encode() + random_body(size) + b".\r\n"


class Submission:
    """A logged-in session on port 465 that stays open."""

    def __init__(self, account):
        self.account = account
        plain = socket.create_connection((host_of(account), 465), timeout=120)
        # A message is one write, which must not wait for the acknowledgement of the last one.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = TLS.wrap_socket(plain)
        self.lines = self.socket.makefile("rb")
        self.expect("220")
        self.command("EHLO client.example.org", "250")
        login = base64.b64encode(f"\0{account.address}\0{account.password}".encode()).decode()
        self.command(f"AUTH PLAIN {login}", "235")

    def command(self, text, code):
        """Send a command; raise RuntimeError unless the reply has this code."""
        self.socket.sendall(f"{text}\r\n".encode())
        self.expect(code)

    def expect(self, code):
        """Read a reply of one or more lines; raise RuntimeError unless it has this code."""
        line = self.lines.readline()
        while line[3:4] == b"-":
            line = self.lines.readline()
        if line[:3] != code.encode():
            raise RuntimeError(f"the relay answered {line!r}, expected {code}")

    def send(self, recipient, size=10_000):
        """Send one message; return when its last byte was written (perf_counter, seconds)."""
        sender = self.account.address
        data = message(sender, recipient, size)
        # RFC 2920: one write for the envelope.
        self.socket.sendall(f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode())
        for code in ("250", "250", "354"):
            self.expect(code)
        self.socket.sendall(data)
        return time.perf_counter()

    def confirm(self):
        """Read the relay's answer to the last message."""
        self.expect("250")

    def close(self):
        """End the connection."""
        self.lines.close()
        self.socket.close()


class Inbox(IdleClient):
    """A client on port 993 that logs in, which creates its address, and opens its INBOX."""

    def __init__(self, account):
        super().__init__(SimpleNamespace(domain=host_of(account)), account)
        self.account = account
        self.count = 0  # messages that it was told of

    def wait_for_count(self):
        """Wait for a notice; return the number of messages that it names, and when it came."""
        while not (line := self.line()).endswith(" EXISTS"):
            pass
        told = time.perf_counter()
        self.count = max(self.count, int(line.split()[1]))
        return self.count, told

    def fetch(self):
        """End the waiting and fetch as a client does; wait again. Return the number of messages.

        Notices of the meantime are in the answers, and so in this number.
        """
        self.send("DONE")
        answers = self.answer()
        answers += "\n" + self.command("UID FETCH * (BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
        self.idle()
        found = [int(line.split()[1]) for line in answers.split("\n") if line.endswith(" EXISTS")]
        self.count = max(self.count, *found, 0)
        return self.count

    def messages(self):
        """Return how many messages the mailbox has."""
        return int(re.search(r"MESSAGES (\d+)", self.command("STATUS INBOX (MESSAGES)"))[1])


def log_in(account):
    """Log in by IMAP over a connection of its own and leave, as quickly as possible."""
    with TLS.wrap_socket(socket.create_connection((host_of(account), 993), 60)) as connection:
        connection.sendall(f"a LOGIN {account.address} {account.password}\r\n".encode())
        answer = b""
        while b"\r\na " not in answer:
            data = connection.recv(4096)
            if not data:
                raise RuntimeError("the relay closed an IMAP connection")
            answer += data
        if b"\r\na OK" not in answer:
            raise RuntimeError(f"the login failed: {answer[-100:]!r}")


def greet(account):
    """Open an IMAP connection, wait for the relay's greeting, and leave without a login."""
    with TLS.wrap_socket(socket.create_connection((host_of(account), 993), 60)) as connection:
        if not connection.recv(4096).startswith(b"* OK"):
            raise RuntimeError("the relay did not greet an IMAP client")
