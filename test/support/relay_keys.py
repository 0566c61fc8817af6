"""DKIM keys in a directory of a test, and messages that are signed with one of them."""

import grp
import os

import pytest
from chatmaild.dkim import key_files, signing, signing_state
from chatmaild.message import mime

DOMAIN = "chat.example.org"


def keep_in(directory, monkeypatch):
    """Let the program keep its keys in this directory, with the group of this process."""
    if os.geteuid() != 0:
        pytest.skip("keys of root need root")
    monkeypatch.setattr(key_files, "DIRECTORY", directory)
    monkeypatch.setattr(key_files, "GROUP", grp.getgrgid(os.getgid()).gr_name)


def make():
    """Make an RSA and an Ed25519 key, and let the relay sign with them. Return their selectors."""
    made = [key_files.generate(algorithm=each)["selector"] for each in key_files.ALGORITHMS]
    signing_state.sign_with(made)
    return made


def sign_with_key(directory, selector, domain=DOMAIN):
    """Return a message that the filter's code has signed with one key."""
    message = b"From: a@%b\r\nTo: b@example.net\r\nSubject: [...]\r\n" % domain.encode()
    message += b"Date: Sun, 22 Nov 2026 12:00:00 +0000\r\n"
    fields = mime.parse_fields(message.removesuffix(b"\r\n"))
    key = next(key for key in signing.load_keys(directory) if key.selector == selector)
    made = signing.signature_fields(fields, b"hello\r\n", domain, [key])[0]
    return b"DKIM-Signature:" + made + b"\r\n" + message + b"\r\nhello\r\n"
