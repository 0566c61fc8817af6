"""Two real Delta Chat clients talk through the relay."""

import contextlib
import hashlib
import os
import sys
from pathlib import Path

import pytest
from deltachat_rpc_client import DeltaChat, EventType, Rpc
from relay.client import new_credentials

# Beside the interpreter, whether or not its environment is activated.
CORE = Path(sys.executable).with_name("deltachat-rpc-server")
FILE_SIZE = 15 * 1000 * 1000


@pytest.fixture
def chat(tmp_path):
    """A Delta Chat core of its own."""
    with contextlib.ExitStack() as stack:
        rpc = stack.enter_context(Rpc(str(tmp_path / "accounts"), str(CORE)))
        yield DeltaChat(rpc)


def online_account(chat, relay, name):
    """Return a configured account that was made by `/new`."""
    address, password = new_credentials(relay)
    account = chat.add_account()
    account.set_config("displayname", name)
    account.add_transport_from_qr(f"dclogin:{address}?p={password}&v=1&ic=3")
    account.bring_online()
    return account


def received(account):
    """Return the next incoming message that is not one of Secure-Join's own."""
    return account.wait_for_incoming_msg()


@pytest.mark.timeout(300)
def test_two_accounts_join_each_other_and_exchange_texts_and_a_large_file(relay, chat, tmp_path):
    alice, bob = online_account(chat, relay, "Alice"), online_account(chat, relay, "Bob")

    bob.secure_join(alice.get_qr_code())
    alice.wait_for_securejoin_inviter_success()
    bob.wait_for_securejoin_joiner_success()

    to_alice, to_bob = (
        account.create_chat(other) for account, other in ((bob, alice), (alice, bob))
    )
    for number in range(10):
        to_bob.send_text(f"question {number}")
        assert received(bob).get_snapshot().text == f"question {number}"
        to_alice.send_text(f"answer {number}")
        assert received(alice).get_snapshot().text == f"answer {number}"

    original = tmp_path / "large.bin"
    original.write_bytes(os.urandom(FILE_SIZE))
    to_bob.send_message(file=str(original))
    message = received(bob)
    while message.get_snapshot().download_state != "Done":
        bob.wait_for_event(EventType.MSGS_CHANGED)
    with open(message.get_snapshot().file, "rb") as stream:
        assert (
            hashlib.file_digest(stream, "sha256").digest()
            == hashlib.sha256(original.read_bytes()).digest()
        )
