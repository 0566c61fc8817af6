"""While a limit is exceeded there are no new addresses; those that exist work on."""

import pytest
from relay.client import new_account, new_credentials
from relay.test_login import try_imap, try_smtp
from relay.test_registration import apply, ask

EXCEEDED = [
    ("max_load_1m", 0.0001),
    ("min_available_memory", "900000G"),
    ("min_free_disk_space", "900000G"),
]


@pytest.mark.parametrize(("setting", "value"), EXCEEDED)
def test_exceeded_limit_refuses_new_addresses_and_no_others(relay, setting, value):
    old, new = new_account(relay), new_credentials(relay)
    since = relay.run("date +%s.%N").stdout.strip()
    apply(relay, **{setting: value})
    try:
        assert not try_imap(relay, *new)
        assert ask(relay)[0] == 503
        assert try_imap(relay, *old)
        assert try_smtp(relay, *old)
        limit = relay.salt("chatmail_relay.limits")[setting]
    finally:
        apply(relay)
    log = relay.run(f"journalctl -u chatmail-accounts -o cat --since=@{since}").stdout
    assert f"registration rejected: {setting}, " in log
    assert f", {limit['limit']}\n" in log
    assert new.address not in log
    assert try_imap(relay, *new)


def test_network_that_asks_for_too_many_addresses_has_to_wait(relay):
    apply(relay, max_registrations_per_hour=3)
    try:
        assert [ask(relay)[0] for _ in range(5)] == [200] * 3 + [429] * 2
        limit = relay.salt("chatmail_relay.limits")["max_registrations_per_hour"]
        assert limit == {"value": 3, "limit": 3}
    finally:
        apply(relay)
    assert ask(relay)[0] == 200
