"""What people feel: two Delta Chat cores that chat, and that verify each other by Secure-Join."""

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from support import delta_chat

PAUSE = 0.6  # seconds before each message; each of the two then sends less than one a second


def joined(alice, bob):
    """Have bob scan alice's code; return the seconds until both are green."""
    code = alice.get_qr_code()
    began = time.perf_counter()
    bob.secure_join(code)
    bob.wait_for_securejoin_joiner_success()
    alice.wait_for_securejoin_inviter_success()
    return time.perf_counter() - began


def hops(alice, bob, count):
    """Have two accounts ask and answer; return the seconds from sending until each one arrived.

    A pause before each message keeps them below the rate at which a core begins to wait by itself.
    """
    ways = (alice.create_chat(bob), bob), (bob.create_chat(alice), alice)
    waits = []
    for number in range(count):
        chat, recipient = ways[number % 2]
        time.sleep(PAUSE)
        began = time.perf_counter()
        chat.send_text(f"message {number}")
        recipient.wait_for_incoming_msg()
        waits.append(time.perf_counter() - began)
    return waits


def join_and_chat(domain, other_domain, count=40, joins=3):
    """Let cores on two relays, which may be the same, join and chat.

    Returns the seconds of each join, by a new account each time, and of each hop after it.
    """
    here, there = (SimpleNamespace(domain=name, in_dns=True) for name in (domain, other_domain))
    times = []
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as two,
        delta_chat.core(Path(one)) as first,
        delta_chat.core(Path(two)) as second,
    ):
        alice = delta_chat.online_account(first, here, "Alice")
        for number in range(joins):
            bob = delta_chat.online_account(second, there, f"Bob {number}")
            times.append(joined(alice, bob))
        return times, hops(alice, bob, count)
