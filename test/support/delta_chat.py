"""Delta Chat cores that talk to each other through a relay."""

import contextlib
import hashlib
import os
import sys
from pathlib import Path

from deltachat_rpc_client import DeltaChat, EventType, Rpc
from relay.client import login_link

# The program is beside the interpreter, also when nobody has activated the environment.
CORE = Path(sys.executable).with_name("deltachat-rpc-server")
FILE_SIZE = 15 * 1000 * 1000


@contextlib.contextmanager
def core(directory):
    """Run a Delta Chat core, which keeps its accounts below `directory`."""
    with Rpc(str(directory / "accounts"), str(CORE)) as rpc:
        yield DeltaChat(rpc)


def online_account(chat, relay, name):
    """Return a configured account that was made by `/new`."""
    account = chat.add_account()
    account.set_config("displayname", name)
    account.add_transport_from_qr(login_link(relay))
    account.bring_online()
    return account


def wait_for_incoming(account):
    """Return the next incoming message that is not part of Secure-Join."""
    return account.wait_for_incoming_msg()


def join(alice, bob):
    """Let two accounts verify each other by Secure-Join. Bob scans Alice's code."""
    bob.secure_join(alice.get_qr_code())
    alice.wait_for_securejoin_inviter_success()
    bob.wait_for_securejoin_joiner_success()


def exchange_texts(alice, bob, count):
    """Let two accounts ask and answer. Each waits for the message of the other."""
    to_alice, to_bob = (
        account.create_chat(other) for account, other in ((bob, alice), (alice, bob))
    )
    for number in range(count):
        to_bob.send_text(f"question {number}")
        assert wait_for_incoming(bob).get_snapshot().text == f"question {number}"
        to_alice.send_text(f"answer {number}")
        assert wait_for_incoming(alice).get_snapshot().text == f"answer {number}"


def send_file(alice, bob, directory):
    """Let Alice send a large file from `directory` to Bob, and compare what arrives."""
    original = directory / "large.bin"
    original.write_bytes(os.urandom(FILE_SIZE))
    alice.create_chat(bob).send_message(file=str(original))
    message = wait_for_incoming(bob)
    while message.get_snapshot().download_state != "Done":
        bob.wait_for_event(EventType.MSGS_CHANGED)
    with open(message.get_snapshot().file, "rb") as stream:
        assert (
            hashlib.file_digest(stream, "sha256").digest()
            == hashlib.sha256(original.read_bytes()).digest()
        )


def talk(alice, bob, directory):
    """Let two accounts join each other and exchange texts and a large file from `directory`."""
    join(alice, bob)
    exchange_texts(alice, bob, 10)
    send_file(alice, bob, directory)
