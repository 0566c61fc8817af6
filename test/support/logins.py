"""Logins, requests for new addresses, and the mailboxes that they create."""

import contextlib
import imaplib
import json
import smtplib
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from relay.client import imap, smtp, tls_context


def try_imap(relay, address, password):
    """Tell whether an IMAP login succeeds."""
    plain = f"\0{address}\0{password}".encode()
    with imap(relay) as connection:
        try:
            connection.authenticate("PLAIN", lambda _: plain)
        except imaplib.IMAP4.error:
            return False
        return True


def try_smtp(relay, address, password):
    """Tell whether an SMTP login succeeds."""
    with smtp(relay) as connection:
        try:
            connection.login(address, password)
        except smtplib.SMTPAuthenticationError:
            return False
        return True


def mailboxes_dir(relay):
    return json.loads(relay.run("cat /etc/chatmail/relay.json").stdout)["mailboxes_dir"]


def mailboxes(relay):
    """Return the names in the directory of the mailboxes."""
    return set(relay.run(["ls", "-A", mailboxes_dir(relay)]).stdout.split())


def all_at_once(attempt, arguments):
    """Call `attempt` for each tuple of arguments, at the same time, and return the results.

    One after another would be slow, because the relay takes 2 s for each refusal.
    """
    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(lambda each: attempt(*each), arguments))


def ask(relay, token=None):
    """Ask for a new address. Return the status and the JSON of the answer."""
    query = "" if token is None else f"?token={token}"
    request = urllib.request.Request(f"https://{relay.domain}/new{query}", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30, context=tls_context()) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            return error.code, json.load(error)
