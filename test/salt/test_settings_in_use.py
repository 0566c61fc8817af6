"""Publishing and rotating use the settings of the machine, and a rotation reports its steps."""

import datetime
import json
import os

import pytest
from chatmaild.dkim import signing_state
from chatmaild.dns import commands, publishing
from chatmaild.rotation import rotating
from salt.exceptions import CommandExecutionError
from support import own_modules

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="keys of root need root")

MACHINE, PILLAR, STATE = "machine.example.org", "pillar.example.org", "state.example.org"


@pytest.fixture
def own(tmp_path):
    """Return our modules. The pillar in memory has another domain than the machine."""
    return own_modules.load(tmp_path, own_modules.settings(tmp_path, mail_domain=PILLAR))


@pytest.fixture
def converge(tmp_path, own):
    """Return a function that writes the settings file as a converge does."""

    def write(**changed):
        settings = own_modules.settings(tmp_path, **{"mail_domain": MACHINE, **changed})
        (tmp_path / "relay.json").write_text(json.dumps(settings))
        return settings

    return write


def named(records):
    return {each["name"] for each in records}


def test_records_follow_the_machines_settings_and_not_the_pillar_in_memory(own, converge):
    """A minion keeps its pillar in memory until saltutil.refresh_pillar, so it may be too old."""
    assert f"{PILLAR}." in named(own.dns.records())
    converge()
    assert f"{MACHINE}." in named(own.dns.records())
    assert f"{PILLAR}." not in named(own.dns.records())
    assert f"{MACHINE}." in own.dns.zone()
    selector = own_modules.make_keys(own)[0]
    assert own.dkim.txt(selector)["name"] == f"{selector}._domainkey.{MACHINE}."
    assert {each["name"].partition("._domainkey.")[2] for each in own.dkim.records()} == {
        f"{MACHINE}."
    }


@pytest.fixture
def domains(monkeypatch):
    """Return the list of the domains for which the program publishes or compares records."""
    domains = []

    def note(settings, *_arguments):
        domains.append(settings["mail_domain"])
        return []

    for name in ("changes", "publish"):
        monkeypatch.setitem(commands.COMMANDS, name, lambda settings, names: note(settings))
    monkeypatch.setattr(publishing, "publish", note)
    monkeypatch.setattr(rotating, "publish", note)
    monkeypatch.setattr(rotating, "wait_for_servers", lambda *_: None)
    return domains


def test_operators_calls_use_the_domain_of_the_machine(own, converge, domains):
    converge()
    own_modules.make_keys(own)
    own.dns.publish()
    own.dns.changes()
    own.dkim.rotate(wait=0)
    assert set(domains) == {MACHINE}


def test_hook_of_the_machines_settings_publishes_the_machines_records(own, converge, monkeypatch):
    """The pillar in memory may still name a server, or no way to publish."""
    called = []
    own.salt["my_dns.apply"] = called.append
    converge(server=None, hook="my_dns.apply")
    monkeypatch.setattr(own.dns, "changes", lambda _names, settings: [settings["mail_domain"]])
    own.dns.publish()
    assert called == [[MACHINE]]


def test_state_uses_the_settings_of_its_argument(own, converge, domains):
    """So a dry run after a change of the pillar announces what the converge will publish."""
    converge()
    given = {**own.relay, "mail_domain": STATE}
    own.dns_state.published("records", settings=given)
    own.dns_state.__opts__ = {"test": True}
    own.dns_state.published("records", settings=given)
    assert set(domains) == {STATE}


def test_machines_addresses_are_used_when_no_addresses_are_set(own, converge, tmp_path):
    converge(addresses=None)
    own.salt["network.ip_addrs"] = lambda: ["192.0.2.1"]
    own.salt["network.ip_addrs6"] = list
    assert own.program.settings()["own_addresses"] == ["192.0.2.1"]


def test_settings_that_cannot_be_read_are_named(own, tmp_path):
    (tmp_path / "relay.json").write_text("{")
    with pytest.raises(CommandExecutionError, match=r"relay\.json: expected JSON, found: "):
        own.dns.records()
    assert own.dns_state.published("records")["result"] is False


# The state chatmail_dkim.rotated.


@pytest.fixture
def age(own, converge, tmp_path, domains):
    """Return a function that makes all keys of a relay some days older."""
    converge(dkim={"rotate_after": 30, "retire_after": 60})
    own_modules.make_keys(own)

    def make_older(days):
        path = tmp_path / "chatmail/dkim/signing.json"
        state = json.loads(path.read_text())
        for key in (key for keys in state.values() for key in keys):
            since = datetime.datetime.fromisoformat(key["since"])
            key["since"] = (since - datetime.timedelta(days=days)).isoformat()
        path.write_text(json.dumps(state))

    return make_older


def rotated(own, test, **arguments):
    own.dkim_state.__opts__ = {"test": test}
    return own.dkim_state.rotated("young", **arguments)


def signing(own):
    return [selector for selector, key in own.dkim.list_().items() if key["status"] == "signing"]


def test_rotation_does_what_the_dry_run_announced(own, age):
    age(31)
    old = signing(own)
    announced, done = rotated(own, test=True), rotated(own, test=False)
    assert (announced["result"], done["result"]) == (None, True)
    assert announced["changes"] == done["changes"]
    assert done["changes"] == {"signing keys": {"old": old, "new": signing(own)}}


def test_rotation_that_must_wait_for_the_last_one_is_not_announced(own, age):
    """Keys of 30 days are due, but the records of the last keys stay in DNS for 60 days.

    No rotation begins before their end.
    """
    age(31)
    rotated(own, test=False)
    age(31)
    for test in (True, False):
        ret = rotated(own, test)
        assert (ret["result"], ret["changes"]) == (True, {})


def test_keys_that_wait_for_dns_are_reported_once(own, age, monkeypatch):
    """Once, the state announced other signing keys, then made keys, but reported no change."""
    monkeypatch.setattr(rotating, "wait_for_servers", lambda *_: "DNS is not ready: x is missing")
    age(31)
    old = signing(own)
    waiting = rotated(own, test=False)
    made = [key["selector"] for key in signing_state.read_state()["next"]]
    assert waiting["changes"] == {"next keys": {"old": [], "new": made}}
    assert "DNS is not ready: x is missing" in waiting["comment"]
    assert rotated(own, test=False)["changes"] == {}
    assert signing(own) == old
    monkeypatch.setattr(rotating, "wait_for_servers", lambda *_: None)
    announced, done = rotated(own, test=True), rotated(own, test=False)
    assert announced["changes"] == done["changes"] == {"signing keys": {"old": old, "new": made}}


def test_dry_run_announces_withdrawn_keys_with_the_same_changes(own, age, monkeypatch):
    age(31)
    old = signing(own)
    rotated(own, test=False)
    age(61)
    gone = {"records": [{"name": f"{each}._domainkey.{MACHINE}.", "found": []} for each in old]}
    monkeypatch.setattr(rotating, "check", lambda *_: gone)
    # With this age, no new rotation begins.
    announced, done = (rotated(own, test, days=4000) for test in (True, False))
    assert announced["changes"] == done["changes"]
    assert done["changes"] == {"keys withdrawn": {"old": sorted(old), "new": []}}
    assert not set(old) & set(own.dkim.list_())
