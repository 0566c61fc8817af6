"""What the tests of backup and restore share."""

import pytest
from support.backup import Machine, make_key


@pytest.fixture(scope="session")
def key(tmp_path_factory):
    """The path of a private key, and its recipient."""
    return make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture
def old(tmp_path, key, monkeypatch):
    """A relay with all kinds of keys, accounts and an invitation. The program works on it."""
    machine = Machine(tmp_path / "old", key[1]).use(monkeypatch)
    machine.add_keys()
    machine.add_invitation()
    machine.add_address("alice0000")
    machine.add_address("blocked00", blocked=True, tokens=())
    return machine


@pytest.fixture
def new(tmp_path, key):
    """An empty converged relay of the same domain, with keys of its own."""
    machine = Machine(tmp_path / "new", key[1])
    machine.write("etc/chatmail/dkim/r9.pem", "FRESH KEY")
    machine.write("etc/chatmail/dkim/signing.json", '{"selectors": ["r9"]}')
    machine.write("etc/chatmail/turn-secret", "FRESH SECRET")
    machine.write("etc/letsencrypt/accounts/ca.example/directory/9e9e/private_key.json", "FRESH")
    return machine
