"""chatmail_fleet.ping with relays that are played back: who is asked what, and the matrix."""

import json
import re

import pytest
from support.played_back import SILENT, Fleet

NAMES = ["r1", "r2", "r3"]
STEPS = ("open", "send", "seen", "close")
REFUSED = "[198.51.100.3]:25 did not answer within 10 s"


class Relays:
    """Relays that exchange messages.

    silent: those that do not answer. lost: {(sender, recipient)} whose mail does not arrive.
    no_smtp: the relays whose port 25 is closed.
    """

    def __init__(self, names=NAMES, silent=(), lost=(), no_smtp=()):
        self.names, self.silent, self.lost, self.no_smtp = names, silent, set(lost), no_smtp

    def answers(self):
        return {
            f"chatmail_ping.{step}": {
                name: SILENT
                if name in self.silent
                else lambda _step=step, _name=name, **given: getattr(self, _step)(_name, **given)
                for name in self.names
            }
            for step in STEPS
        }

    def open(self, name, token):
        assert re.fullmatch(r"[a-z0-9]{16}", token)
        return {"domain": f"{name}.example.org"}

    def send(self, name, token, domains, wait):
        straight = {
            domain: {"https": 0.2, "smtp": REFUSED if domain[:2] in self.no_smtp else 0.3}
            for domain in domains
        }
        left = {domain: "timed out" for domain in domains if (name, domain[:2]) in self.lost}
        return {"mail": {"sent": 1000.0}, "left": left, "straight": straight}

    def seen(self, name, token, count, domains, wait):
        assert f"{name}.example.org" in domains
        found = {}
        for sender in set(self.names) - set(self.silent):
            ways = {"https": 1000.2}
            if (sender, name) not in self.lost:
                ways["mail"] = 1000.5
            if name not in self.no_smtp:
                ways["smtp"] = 1000.3
            found[f"{sender}.example.org"] = ways
        # The runner asks for exactly what can arrive.
        assert count == sum(map(len, found.values()))
        return found

    def close(self, name, token):
        return True


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    return Fleet(tmp_path, monkeypatch)


def ping(fleet, relays):
    return fleet.call("ping", relays.answers(), relays.names)


def closed(fleet):
    return [name for function, name, _ in fleet.minions.calls if function == "chatmail_ping.close"]


def pairs(found, way):
    """Return {(sender, recipient): value} of a matrix."""
    return {
        (sender, recipient): value
        for sender, entry in found["data"].items()
        for recipient, value in entry["to"][way].items()
    }


def test_each_relay_sends_to_each(fleet):
    found = ping(fleet, Relays())
    assert pairs(found, "mail") == dict.fromkeys(((a, b) for a in NAMES for b in NAMES), 0.5)
    assert set(pairs(found, "https").values()) == {0.2}
    assert set(pairs(found, "smtp").values()) == {0.3}
    assert (found["retcode"], closed(fleet)) == (0, NAMES)
    shown = fleet.show(found)
    assert "by mail: from  r1    r2    r3\nr1             0.50  0.50  0.50\n" in shown
    assert shown.splitlines()[-1] == "3 relays, 3 well"


def test_closed_port_25_is_in_the_matrix_of_smtp_and_no_fault(fleet):
    found = ping(fleet, Relays(no_smtp=["r3"]))
    lost = {pair for pair, value in pairs(found, "smtp").items() if value == REFUSED}
    assert lost == {(name, "r3") for name in NAMES}
    assert not [value for value in pairs(found, "mail").values() if isinstance(value, str)]
    assert found["retcode"] == 0
    assert f"r1: smtp to r3: {REFUSED}" in fleet.show(found)


def test_mail_that_does_not_arrive_is_a_fault_of_its_sender(fleet):
    found = ping(fleet, Relays(lost=[("r1", "r2")]))
    assert pairs(found, "mail")["r1", "r2"] == "timed out"
    assert [name for name in NAMES if not found["data"][name]["result"]] == ["r1"]
    assert (found["retcode"], closed(fleet)) == (1, NAMES)


def test_silent_relay_is_exactly_its_row_and_column(fleet):
    found = ping(fleet, Relays(silent=["r2"]))
    present = {(a, b) for a in ("r1", "r3") for b in ("r1", "r3")}
    assert {pair for pair, value in pairs(found, "mail").items() if value is not None} == present
    assert [name for name in NAMES if not found["data"][name]["result"]] == ["r2"]
    assert (found["retcode"], closed(fleet)) == (2, ["r1", "r3"])
    shown = fleet.show(found).splitlines()
    assert shown[1:4] == [
        "r1             0.50  -   0.50",
        "r2             -     -   -",
        "r3             0.50  -   0.50",
    ]


@pytest.mark.parametrize("step", ["open", "send", "seen"])
def test_relay_that_answers_something_else_does_not_stop_the_others(fleet, step):
    relays = Relays()
    answers = relays.answers()
    wrong = {"open": {"other": 1}, "send": {"mail": {}}, "seen": "it failed"}
    answers[f"chatmail_ping.{step}"]["r2"] = wrong[step]
    # The number of messages that can arrive is another one then.
    relays.silent = ["r2"] if step != "seen" else []
    found = fleet.call("ping", answers, NAMES)
    assert found["data"]["r2"]["result"] is False
    assert found["data"]["r1"]["to"]["mail"]["r3"] == 0.5
    assert found["retcode"] == 1
    assert closed(fleet) == (["r1", "r3"] if step == "open" else NAMES)


def test_addresses_are_closed_when_somebody_ends_the_runner(fleet):
    relays = Relays()

    def interrupted(**_given):
        raise KeyboardInterrupt

    answers = relays.answers()
    answers["chatmail_ping.send"]["r1"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        fleet.call("ping", answers, NAMES)
    assert closed(fleet) == NAMES


def test_no_address_passes_the_master(fleet):
    found = ping(fleet, Relays(silent=["r2"], no_smtp=["r3"]))
    assert "@" not in json.dumps([found, fleet.minions.calls, fleet.minions.told])


@pytest.mark.timeout(30)
def test_hundred_relays_fit_into_a_matrix_of_one_character_for_each_pair(fleet):
    names = [f"relay{number:03}" for number in range(1, 101)]
    relays = Relays(names)
    relays.seen = lambda name, **_: {
        f"{sender}.example.org": {"mail": 1000.5, "https": 1000.2, "smtp": 1003.0}
        for sender in names
    }
    found = ping(fleet, relays)
    lines = fleet.show(found).splitlines()
    assert lines[1] == f"  1 relay001  {'.' * 100}"
    assert max(map(len, lines)) <= 120
    assert len(lines) == 3 * 102 + 1
