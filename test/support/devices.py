"""Devices of an address: their tokens, METADATA of the server, and a message that wakes them."""

import re
import secrets
import time

from relay.client import encrypted, imap, smtp


def set_metadata(connection, mailbox, entry, value):
    """Set an entry. Return OK or the text of the refusal."""
    try:
        return connection.xatom("SETMETADATA", mailbox, f'({entry} "{value}")')[0]
    except connection.error as refusal:
        return str(refusal)


def get_metadata(connection, mailbox, entry):
    """Return the value of an entry, None for NIL."""
    connection.xatom("GETMETADATA", mailbox, f"({entry})")
    parts = connection.untagged_responses.pop("METADATA")
    line = b"".join(part if isinstance(part, bytes) else b"".join(part) for part in parts)
    assert entry.encode() in line, line
    answer = line.partition(entry.encode())[2].decode().strip(" )")
    literal = re.fullmatch(r"\{[0-9]+\}(.*)", answer, re.DOTALL)
    return literal[1] if literal else None if answer == "NIL" else answer.strip('"')


def new_device(relay, account):
    """Register a device of an address. Return its token."""
    # Each token is new, so that no test counts the notifications of another test.
    token = f"openpgp:{secrets.token_urlsafe(300)}"
    with imap(relay, account) as connection:
        assert set_metadata(connection, "INBOX", "/private/devicetoken", token) == "OK"
    return token


def send(relay, sender, recipient):
    """Send a message. Return the time at which the relay had accepted it (time.time())."""
    with smtp(relay, sender) as connection:
        connection.sendmail(
            sender.address, [recipient.address], encrypted(sender.address, recipient.address)
        )
    return time.time()


def server_entry(relay, account, name):
    with imap(relay, account) as connection:
        return get_metadata(connection, '""', f"/shared/vendor/deltachat/{name}")
