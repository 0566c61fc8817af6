"""What publishes and rotates goes by the machine's settings, and rotations say what they do."""

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
    """Return the modules, with a pillar in memory that names another domain than the machine."""
    return own_modules.load(tmp_path, own_modules.settings(tmp_path, mail_domain=PILLAR))


@pytest.fixture
def converge(tmp_path, own):
    """Return a function that writes what a converge with these settings leaves."""

    def write(**changed):
        settings = own_modules.settings(tmp_path, **{"mail_domain": MACHINE, **changed})
        (tmp_path / "relay.json").write_text(json.dumps(settings))
        return settings

    return write


def named(records):
    return {each["name"] for each in records}


def test_records_are_those_of_the_machine_and_not_of_a_newer_or_older_pillar(own, converge):
    """A minion keeps its pillar in memory until saltutil.refresh_pillar."""
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
def asked(monkeypatch):
    """Return the domains that the program is asked to publish, compare or change."""
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


def test_what_an_operator_publishes_or_rotates_is_the_machines(own, converge, asked):
    converge()
    own_modules.make_keys(own)
    own.dns.publish()
    own.dns.changes()
    own.dkim.rotate(wait=0)
    assert set(asked) == {MACHINE}


def test_what_a_hook_publishes_is_the_machines(own, converge, monkeypatch):
    """The pillar in memory may still name a server, or none."""
    called = []
    own.salt["my_dns.apply"] = called.append
    converge(server=None, hook="my_dns.apply")
    monkeypatch.setattr(own.dns, "changes", lambda _names, settings: [settings["mail_domain"]])
    own.dns.publish()
    assert called == [[MACHINE]]


def test_state_goes_by_the_settings_that_it_is_given(own, converge, asked):
    """A dry run after a change of the pillar announces what the converge will publish."""
    converge()
    given = {**own.relay, "mail_domain": STATE}
    own.dns_state.published("records", settings=given)
    own.dns_state.__opts__ = {"test": True}
    own.dns_state.published("records", settings=given)
    assert set(asked) == {STATE}


def test_machines_addresses_are_added_where_none_are_set(own, converge, tmp_path):
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
def aged(own, converge, tmp_path, asked):
    """Return age(days), which makes all keys older, of a relay that signs."""
    converge(dkim={"rotate_after": 30, "retire_after": 60})
    own_modules.make_keys(own)

    def age(days):
        path = tmp_path / "chatmail/dkim/signing.json"
        state = json.loads(path.read_text())
        for key in (key for keys in state.values() for key in keys):
            since = datetime.datetime.fromisoformat(key["since"])
            key["since"] = (since - datetime.timedelta(days=days)).isoformat()
        path.write_text(json.dumps(state))

    return age


def rotated(own, test, **arguments):
    own.dkim_state.__opts__ = {"test": test}
    return own.dkim_state.rotated("young", **arguments)


def signing(own):
    return [selector for selector, key in own.dkim.list_().items() if key["status"] == "signing"]


def test_rotation_does_what_the_dry_run_announced(own, aged):
    aged(31)
    old = signing(own)
    announced, done = rotated(own, test=True), rotated(own, test=False)
    assert (announced["result"], done["result"]) == (None, True)
    assert announced["changes"] == done["changes"]
    assert done["changes"] == {"signing keys": {"old": old, "new": signing(own)}}


def test_rotation_that_must_wait_for_the_last_one_is_not_announced(own, aged):
    """Keys of 30 days are due, and no rotation begins while the last keys are in DNS for 60."""
    aged(31)
    rotated(own, test=False)
    aged(31)
    for test in (True, False):
        told = rotated(own, test)
        assert (told["result"], told["changes"]) == (True, {})


def test_keys_that_wait_for_dns_are_reported_once(own, aged, monkeypatch):
    """The state announced other signing keys, made keys, and reported no change."""
    monkeypatch.setattr(rotating, "wait_for_servers", lambda *_: "DNS is not ready: x is missing")
    aged(31)
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


def test_keys_that_go_are_announced_by_the_name_that_the_report_has(own, aged, monkeypatch):
    aged(31)
    old = signing(own)
    rotated(own, test=False)
    aged(61)
    gone = {"records": [{"name": f"{each}._domainkey.{MACHINE}.", "found": []} for each in old]}
    monkeypatch.setattr(rotating, "check", lambda *_: gone)
    # No new ones begin to sign.
    announced, done = (rotated(own, test, days=4000) for test in (True, False))
    assert announced["changes"] == done["changes"]
    assert done["changes"] == {"keys withdrawn": {"old": sorted(old), "new": []}}
    assert not set(old) & set(own.dkim.list_())
