"""While a limit is exceeded there are no new addresses. Existing addresses still work."""

import json
import secrets

import pytest
from relay.client import Account, new_account, new_credentials
from support.logins import ask, try_imap, try_smtp

EXCEEDED = {
    "max_load_1m": 0.0001,
    "min_available_memory": "900000G",
    "min_free_disk_space": "900000G",
}


def apply(relay, **settings):
    pillar = json.dumps({"chatmail": settings})
    relay.salt("state.apply", "chatmail.services", f"pillar={pillar}")


@pytest.fixture(scope="module")
def short(relay):
    """A relay whose limits the tests exceed, with an old address and a new one."""
    yield relay, new_account(relay), new_credentials(relay)
    apply(relay)


@pytest.mark.parametrize("setting", EXCEEDED)
def test_exceeded_limit_refuses_new_addresses_and_no_others(short, setting):
    relay, old, new = short
    apply(relay, **{setting: EXCEEDED[setting]})
    since = relay.run("date +%s.%N").stdout.strip()
    assert not try_imap(relay, *new)
    assert ask(relay)[0] == 503
    assert try_imap(relay, *old)
    assert try_smtp(relay, *old)
    limit = relay.salt("chatmail_relay.limits")[setting]["limit"]
    log = relay.run(f"journalctl -u chatmail-accounts -o cat --since=@{since}").stdout.splitlines()
    assert len(log) == 2
    assert all(line.startswith(f"registration rejected: {setting}, ") for line in log)
    assert all(line.endswith(f", {limit}") for line in log)


def test_network_that_asks_for_too_many_addresses_has_to_wait(short):
    relay, _, new = short
    apply(relay, max_registrations_per_hour=3)
    assert [ask(relay)[0] for _ in range(5)] == [200] * 3 + [429] * 2
    limit = relay.salt("chatmail_relay.limits")["max_registrations_per_hour"]
    assert limit == {"value": 3, "limit": 3}
    assert try_imap(relay, *new)  # no limit is exceeded any more


def test_network_that_makes_too_many_addresses_by_login_has_to_wait(short):
    """Dovecot passes on the client's IP of IMAP and SMTP logins. Other networks do not wait."""
    relay, old, _ = short
    apply(relay, max_registrations_per_hour=4)
    fresh = [Account(f"{secrets.token_hex(5)[:9]}@{relay.domain}", "x" * 12) for _ in range(6)]
    made = [login(relay, *a) for login, a in zip([try_imap, try_smtp] * 3, fresh, strict=True)]
    assert made == [True] * 4 + [False] * 2
    assert try_imap(relay, *old)
    assert try_smtp(relay, *fresh[0])
    limit = relay.salt("chatmail_relay.limits")["max_registrations_per_hour"]
    assert limit == {"value": 4, "limit": 4}
    # A client in another network: the machine itself.
    relay.run(["doveadm", "auth", "test", *fresh[4]])
    log = relay.run("journalctl -u chatmail-accounts -o cat --since=-1min").stdout
    assert log.count("registration rejected: max_registrations_per_hour, >4, 4") == 2
