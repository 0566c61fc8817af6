"""A mailbox with mail of all kinds, and what an IMAP client sees of it."""

import base64
import gzip
import hashlib
import re
import time
from collections import Counter

from relay.client import encrypted, imap, smtp
from support.logins import mailboxes_dir

FOLDERS = ("INBOX", "DeltaChat")
# By Dovecot, which compresses each of them.
MANY = 150
FLAGS = (r"\Seen", r"\Seen \Answered", r"\Flagged $Forwarded", r"\Seen $MDNSent $label1", "")
# 2023-11-14T22:13:20Z; as a file of an older relay has it.
OLD_TIME = 1_700_000_000


def fill(relay, account, other):
    """Give an account mail in two folders, of which the other account sends some."""
    with imap(relay, account) as connection:
        connection.create("DeltaChat")
        connection.subscribe("DeltaChat")
        for number in range(MANY):
            folder, flags = FOLDERS[number % 3 == 0], FLAGS[number % len(FLAGS)]
            message = encrypted(other.address, account.address, size=200 + 50 * number)
            # Dovecot keeps a time that is not now.
            moment = time.localtime(OLD_TIME + 3600 * number)
            done = connection.append(folder, f"({flags})", moment, message)
            assert done[0] == "OK", done
        connection.select("INBOX")
        connection.store("1,3", "+FLAGS", r"\Deleted")
        connection.expunge()
        connection.copy("1:3", "DeltaChat")
    with smtp(relay, other) as connection:
        for _ in range(5):
            connection.sendmail(
                other.address, account.address, encrypted(other.address, account.address)
            )
    with imap(relay, account) as connection:
        relay.wait_until(lambda: count(connection, "INBOX") == MANY - MANY // 3 - 2 + 5)
    # An adopted relay has files like these. The letter a is the first keyword of the folder.
    for number, compress in enumerate((bytes, gzip.compress)):
        message = encrypted(other.address, account.address).replace(b"\r\n", b"\n")
        name = f"{OLD_TIME}.M{number}P1.older,S={len(message)}:2,FS"
        path = f"{mailboxes_dir(relay)}/{account.address}/cur/{name}"
        relay.run(
            f"base64 -d > '{path}' && chown vmail:vmail '{path}' && touch -d @{OLD_TIME} '{path}'",
            input=base64.b64encode(compress(message)).decode(),
        )


def count(connection, folder):
    """Return the number of messages in a folder."""
    return int(connection.select(folder, readonly=True)[1][0])


def read(relay, account):
    """Return what a client sees: {folder: how often it has each (Message-ID, flags, time, digest)}.

    The digest is that of the whole message. The folders are those that the client has chosen.
    """
    found = {}
    with imap(relay, account) as connection:
        chosen = [each.split()[-1].decode().strip('"') for each in connection.lsub()[1] if each]
        for folder in ("INBOX", *chosen):
            # The numbers `1:*` are an error in an empty folder.
            full = count(connection, folder)
            question = "1:*", "(FLAGS INTERNALDATE BODY.PEEK[])"
            answers = connection.fetch(*question)[1] if full else []
            found[folder] = Counter(
                describe(about + rest, message)
                for (about, message), rest in zip(answers[::2], answers[1::2], strict=True)
            )
    return found


def describe(about, message):
    flags = re.search(rb"FLAGS \((.*?)\)", about)[1].split()
    identifier = re.search(rb"(?im)^Message-ID: *(\S+)", message)[1]
    moment = re.search(rb'INTERNALDATE "(.*?)"', about)[1]
    kept = frozenset(flags) - {rb"\Recent"}
    return identifier, kept, moment, hashlib.sha256(message).hexdigest()


def validities(relay, account):
    """Return the UIDVALIDITY of each folder. Another one lets clients forget the numbers."""
    with imap(relay, account) as connection:
        answers = [connection.status(folder, "(UIDVALIDITY)")[1][0] for folder in FOLDERS]
    return [re.search(rb"UIDVALIDITY (\d+)", each)[1] for each in answers]
