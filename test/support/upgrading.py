"""What the users of a relay have before an upgrade, and mail that goes on during it."""

import contextlib
import re
import secrets
import smtplib
from pathlib import Path

from relay.client import encrypted, imap, new_account, new_credentials, smtp
from support.devices import get_metadata, new_device, send
from support.mail_stream import MailStream, stored

KEYS = ("/etc/chatmail/dkim", "/etc/chatmail/tls/privkey.pem", "/etc/chatmail/turn-secret")
DAEMONS = ("coturn", "dovecot", "nginx", "postfix", "unbound", "chatmail-*")
ELSEWHERE = "someone@bogus.example"


class Users:
    """Addresses with mail and a device, one that was invited and has not logged in yet, a queue."""

    def __init__(self, relay):
        self.relay = relay
        self.addresses = [new_account(relay) for _ in range(3)]
        self.tokens = [new_device(relay, each) for each in self.addresses]
        self.invited = new_credentials(relay)
        for sender, recipient in zip(self.addresses, self.addresses[1:], strict=False):
            send(relay, sender, recipient)
        relay.wait_until(lambda: [self.messages(each) for each in self.addresses] == [0, 1, 1])
        # No resolver of the tests finds this domain, so its mail waits in the queue.
        with smtp(relay, self.addresses[0]) as connection:
            message = encrypted(self.addresses[0].address, ELSEWHERE)
            connection.sendmail(self.addresses[0].address, [ELSEWHERE], message)
        self.queue = relay.wait_until(lambda: self.queued("deferred"))
        self.keys = self.digests()

    def queued(self, directories="active deferred"):
        """Return the ids of the messages that wait in directories of Postfix's queue."""
        find = f"cd /var/spool/postfix && find {directories} -type f -printf '%f\\n'"
        return set(self.relay.run(find).stdout.split())

    def messages(self, account):
        """Return how many messages an inbox has."""
        with imap(self.relay, account) as connection:
            return int(connection.select("INBOX", readonly=True)[1][0])

    def digests(self):
        """Return the keys of the relay with their digests."""
        find = ["find", *KEYS, "-name", "*.json", "-o", "-type", "f", "-exec", "sha256sum", "{}"]
        return sorted(self.relay.run([*find, "+"]).stdout.splitlines())

    def check(self):
        """Check that all of it is as it was, and that mail goes on."""
        assert self.digests() == self.keys
        # Postfix moves a message between its directories, so one look may miss it.
        self.relay.wait_until(lambda: self.queue <= self.queued())
        for account, token in zip(self.addresses, self.tokens, strict=True):
            with imap(self.relay, account) as connection:
                tokens = get_metadata(connection, "INBOX", "/private/devicetoken") or ""
            assert token in tokens.split(" "), account.address
        imap(self.relay, self.invited).logout()
        before = [self.messages(each) for each in self.addresses]
        assert all(before[1:]), before
        send(self.relay, self.invited, self.addresses[0])
        self.relay.wait_until(lambda: self.messages(self.addresses[0]) == before[0] + 1)


class Stream(MailStream):
    """The same from an address of the relay itself, whose restarts may refuse a message.

    unsure: the ids of messages that the sender did not see accepted.
    """

    def __init__(self, relay, sender, recipient):
        super().__init__(relay, sender, recipient)
        self.unsure = []

    def _run(self):
        while not self._end.wait(1):
            name = f"stream-{secrets.token_hex(8)}"
            try:
                self._send(name)
            except (OSError, smtplib.SMTPException):
                self.unsure.append(name)
            else:
                self.sent.append(name)

    def _send(self, name):
        sender, recipient = self.sender.address, self.recipient.address
        message = encrypted(sender, recipient, Message_ID=f"<{name}@localhost>")
        connection = smtp(self.relay, self.sender)
        # A connection that breaks after the message was accepted is no refusal of the message.
        with contextlib.closing(connection):
            connection.sendmail(sender, [recipient], message)

    def check(self):
        """Check that each accepted message arrived, and that no message arrived twice."""
        self.relay.wait_until(lambda: set(self.sent) <= set(stored(self.relay, self.recipient)))
        found = stored(self.relay, self.recipient)
        assert len(found) == len(set(found))
        assert set(found) - set(self.sent) <= set(self.unsure)


def runs(relay):
    """Return {unit: id of its present run} of the daemons."""
    shown = relay.run(["systemctl", "show", "--property=Id,InvocationID", *DAEMONS]).stdout
    blocks = [dict(re.findall(r"^(\w+)=(.*)$", each, re.M)) for each in shown.split("\n\n")]
    return {block["Id"]: block.get("InvocationID") for block in blocks if block}


def commands(document, heading):
    """Return the lines of the first block of code below a heading of a document in docs/."""
    text = (Path(__file__).resolve().parents[2] / "docs" / document).read_text()
    below = text.partition(f"\n## {heading}\n")[2]
    return [
        line.strip()
        for line in re.search(r"^ *```\n(.*?)^ *```", below, re.M | re.S)[1].splitlines()
    ]
