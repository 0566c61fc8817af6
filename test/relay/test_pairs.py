"""Delta Chat clients on relays of every form and of both releases talk to each other."""

import itertools

import pytest
from support.delta_chat import core, exchange_texts, join, online_account

KINDS = ("test domain", "domain", "domain, other release", "address")


@pytest.fixture(scope="module")
def relays(relay, domain_box, other_relay, ip_relay):
    """The relays by kind."""
    return dict(zip(KINDS, (relay, domain_box, other_relay, ip_relay), strict=True))


@pytest.mark.parametrize(("one", "another"), list(itertools.combinations(KINDS, 2)))
def test_clients_of_two_relays_join_and_chat(relays, tmp_path, one, another):
    with core(tmp_path) as chat:
        alice = online_account(chat, relays[one], "Alice")
        bob = online_account(chat, relays[another], "Bob")
        join(alice, bob)
        exchange_texts(alice, bob, 3)
