"""Delta Chat cores that talk to each other by a relay."""

import contextlib
import hashlib
import os
import sys
from pathlib import Path

from deltachat_rpc_client import DeltaChat, EventType, Rpc
from relay.client import login_link

# Beside the interpreter, whether or not its environment is activated.
CORE = Path(sys.executable).with_name("deltachat-rpc-server")
FILE_SIZE = 15 * 1000 * 1000


@contextlib.contextmanager
def core(directory):
    """A Delta Chat core of its own, which keeps its accounts below directory."""
    with Rpc(str(directory / "accounts"), str(CORE)) as rpc:
        yield DeltaChat(rpc)


def online_account(chat, relay, name):
    """Return a configured account that was made by `/new`."""
    account = chat.add_account()
    account.set_config("displayname", name)
    account.add_transport_from_qr(login_link(relay))
    account.bring_online()
    return account


def received(account):
    """Return the next incoming message that is not one of Secure-Join's own."""
    return account.wait_for_incoming_msg()


def join(alice, bob):
    """Have two accounts verify each other by Secure-Join, with bob scanning alice's code."""
    bob.secure_join(alice.get_qr_code())
    alice.wait_for_securejoin_inviter_success()
    bob.wait_for_securejoin_joiner_success()


def exchange_texts(alice, bob, count):
    """Have two accounts ask and answer, each waiting for the other."""
    to_alice, to_bob = (
        account.create_chat(other) for account, other in ((bob, alice), (alice, bob))
    )
    for number in range(count):
        to_bob.send_text(f"question {number}")
        assert received(bob).get_snapshot().text == f"question {number}"
        to_alice.send_text(f"answer {number}")
        assert received(alice).get_snapshot().text == f"answer {number}"


def send_file(alice, bob, directory):
    """Have alice send bob a large file, kept in directory, that arrives as it was."""
    original = directory / "large.bin"
    original.write_bytes(os.urandom(FILE_SIZE))
    alice.create_chat(bob).send_message(file=str(original))
    message = received(bob)
    while message.get_snapshot().download_state != "Done":
        bob.wait_for_event(EventType.MSGS_CHANGED)
    with open(message.get_snapshot().file, "rb") as stream:
        assert (
            hashlib.file_digest(stream, "sha256").digest()
            == hashlib.sha256(original.read_bytes()).digest()
        )


def talk(alice, bob, directory):
    """Have two accounts join each other, exchange texts, and a large file kept in directory."""
    join(alice, bob)
    exchange_texts(alice, bob, 10)
    send_file(alice, bob, directory)
