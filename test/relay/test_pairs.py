"""Delta Chat clients on relays of every form and of both releases talk to each other."""

import itertools
import os

import pytest
from relay.test_chat import core, exchange_texts, join, online_account

KINDS = ("test domain", "domain", "domain, other release", "address")


@pytest.fixture(scope="module")
def relays(release, relay, domain_box, ip_relay, make_relay):
    """The relays by kind."""
    other = "debian-12" if release == "debian-13" else "debian-13"
    far = make_relay(other, "--domain", f"far{os.getpid()}-{other}.signed.example")
    return dict(zip(KINDS, (relay, domain_box, far, ip_relay), strict=True))


@pytest.mark.parametrize(("one", "another"), list(itertools.combinations(KINDS, 2)))
def test_clients_of_two_relays_join_and_chat(relays, tmp_path, one, another):
    with core(tmp_path) as chat:
        alice = online_account(chat, relays[one], "Alice")
        bob = online_account(chat, relays[another], "Bob")
        join(alice, bob)
        exchange_texts(alice, bob, 3)
