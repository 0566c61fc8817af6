"""Asks the filter's rules about a message."""

from chatmaild.common.refusals import Refusal
from chatmaild.filter import rules
from support import messages
from support.messages import RECIPIENT, SENDER, fields


def submit(header, body, sender=SENDER) -> str:
    """Return the SMTP reply to a message that a user sends, "" if it is accepted."""
    try:
        rules.check_submission(sender, header, body)
    except Refusal as refusal:
        return " ".join(filter(None, (refusal.code, refusal.xcode, refusal.text)))
    return ""


def receive(header, body, cleartext=False, sender="", recipient=RECIPIENT) -> str:
    """Return the SMTP reply to a message from another relay, "" if it is accepted."""
    try:
        rules.check_incoming(sender, [recipient], header, body, lambda: cleartext)
    except Refusal as refusal:
        return " ".join(filter(None, (refusal.code, refusal.xcode, refusal.text)))
    return ""


NEEDED = "523 Encryption Needed: Invalid Unencrypted Mail"


ARMOR = messages.armored()


OCTETS = b"Content-Type: application/octet-stream\r\n"


SECURE_JOIN = "Secure-Join: vc-request"


def single(text=SECURE_JOIN, **header):
    """Return header and body of a message like a Secure-Join request, but without MIME parts."""
    values = {"Secure_Join": "vc-request", "Content_Type": 'text/plain; charset="utf-8"'}
    return fields(**(values | header)), f"{text}\r\n".encode()
