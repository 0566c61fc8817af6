"""The orchestrations: their plan, and what they do with relays whose answers are played back."""

import importlib.util
from pathlib import Path

import pytest
import yaml
from support.played_back import SILENT, Fleet

PLAN = Path(__file__).resolve().parents[2] / "chatmail/fleet/plan.py"
RELAYS = ["r1", "r2", "r3", "r4", "r5"]
HEALTHY = {"result": True, "steps": []}
ILL = {
    "result": False,
    "steps": [{"name": "units", "result": False, "comment": "nginx is dead"}],
}


def plan(fleet):
    specification = importlib.util.spec_from_file_location("plan", PLAN)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.__pillar__ = {} if fleet is None else {"chatmail_fleet": fleet}
    return module.run()


def test_plan_goes_from_the_canaries_through_the_waves():
    found = plan({"canaries": ["r1"], "waves": [["r2", "r3"], ["r4"]], "canary_saltenv": "next"})
    assert found["at_once"] == 5
    assert found["groups"] == [
        {"name": "canaries", "relays": ["r1"], "later": ["r2", "r3", "r4"], "saltenv": "next"},
        {"name": "wave 1", "relays": ["r2", "r3"], "later": ["r4"], "saltenv": ""},
        {"name": "wave 2", "relays": ["r4"], "later": [], "saltenv": ""},
    ]


def test_plan_of_the_example_is_right():
    example = yaml.safe_load((PLAN.parents[2] / "pillar.example").read_text())
    found = plan(example["chatmail_fleet"])
    assert [group["relays"] for group in found["groups"]] == [
        ["relay1.example.org"],
        ["relay2.example.org"],
        ["relay3.example.org"],
    ]


def test_plan_without_waves_makes_one_of_the_other_relays():
    found = plan({"canaries": ["r2"], "relays": ["r1", "r2", "r3"]})
    assert [group["relays"] for group in found["groups"]] == [["r2"], ["r1", "r3"]]


@pytest.mark.parametrize(
    ("fleet", "error"),
    [
        (None, "chatmail_fleet: the pillar of the master has no such key"),
        ({"canary": ["r1"]}, "chatmail_fleet:canary: no such key"),
        ({"canaries": "r1"}, "chatmail_fleet:canaries: 'r1'; expected: a list of minion ids"),
        ({"waves": ["r1"]}, "chatmail_fleet:waves: ['r1']; expected: a list of lists"),
        ({"waves": [["r1"]], "at_once": 0}, "chatmail_fleet:at_once: 0; expected: a number"),
        ({"waves": [["r1"]], "at_once": True}, "chatmail_fleet:at_once: True"),
        ({"waves": [["r1"]], "canary_saltenv": "a b"}, "chatmail_fleet:canary_saltenv: 'a b'"),
        ({"canaries": ["r1"], "waves": [["r1"]]}, "r1 is in the plan 2 times; expected: once"),
        ({"canaries": [], "waves": []}, "no relay in canaries and waves"),
    ],
)
def test_wrong_plan_names_the_key_and_what_is_expected(fleet, error):
    assert error in plan(fleet)["error"]


def states(result, changes=None, comment=""):
    """Return what state.apply returns for two states, of which one has this result."""
    well = {"result": True, "changes": {}, "comment": "", "__id__": "chatmail fine", "name": "-"}
    other = {**well, "result": result, "changes": changes or {}, "comment": comment}
    return {"a": well, "b": {**other, "__id__": "chatmail other"}}


CHANGED, SAME = states(True, {"new": "x"}), states(True)


def relay(dry=None, real=CHANGED):
    """Return the answer of a relay to state.apply, as a function of its arguments."""
    dry = states(None, {"new": "x"}) if dry is None else dry
    return lambda mods, test=False, saltenv="": dry if test else real


def answers(relays, apply=None, health=None):
    """Return the answers of healthy relays that have something to change, with exceptions."""
    mail = {"mail": {"sent": 1.0}, "left": {}, "straight": {}}
    ways = {"https": 0.1, "smtp": 0.2}
    domains = {name: f"{name}.example" for name in relays}
    sent = {**mail, "result": True, "straight": dict.fromkeys(domains.values(), ways)}
    seen = {d: {"mail": 1.5, "https": 1.5, "smtp": 1.5} for d in domains.values()}
    return {
        "state.apply": {**{name: relay() for name in relays}, **(apply or {})},
        "chatmail_relay.health": {**dict.fromkeys(relays, HEALTHY), **(health or {})},
        "chatmail_ping.open": {n: {"result": True, "domain": d} for n, d in domains.items()},
        "chatmail_ping.send": dict.fromkeys(relays, lambda **_given: sent),
        "chatmail_ping.seen": dict.fromkeys(relays, lambda **_given: {"result": True, **seen}),
        "chatmail_ping.close": dict.fromkeys(relays, True),
    }


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    return Fleet(tmp_path, monkeypatch)


def converge(fleet, given, test=False, **named):
    named = {"relays": RELAYS[:4], "at_once": 2, "untouched": ["r5"], **named}
    return fleet.state("converged", given, test=test, name="wave 1", **named)


def called(fleet, function):
    return [(minion, given) for name, minion, given in fleet.minions.calls if name == function]


def test_relays_are_converged_and_healthy_before_the_next_ones_begin(fleet):
    found = converge(fleet, answers(RELAYS))
    assert found["result"] is True, found["comment"]
    assert found["changes"] == dict.fromkeys(RELAYS[:4], "1 states changed")
    order = [
        (name, minion)
        for name, minion, given in fleet.minions.calls
        if name in ("state.apply", "chatmail_relay.health") and not given.get("test")
    ]
    assert order == [
        *(("state.apply", "r1"), ("state.apply", "r2")),
        *(("chatmail_relay.health", "r1"), ("chatmail_relay.health", "r2")),
        *(("state.apply", "r3"), ("state.apply", "r4")),
        *(("chatmail_relay.health", "r3"), ("chatmail_relay.health", "r4")),
    ]
    assert fleet.minions.most == 2 + 1  # The first relay answers messages of the others.
    # Each pair has messages to and from the first relay.
    assert {minion for minion, _ in called(fleet, "chatmail_ping.open")} == set(RELAYS[:4])


def test_dry_run_of_a_rollout_changes_nothing_and_predicts(fleet):
    given = answers(RELAYS, apply={"r3": relay(dry=SAME)})
    found = converge(fleet, given, test=True)
    assert found["result"] is None
    assert found["changes"] == dict.fromkeys(["r1", "r2", "r4"], "1 states would change")
    assert all(arguments["test"] for _, arguments in called(fleet, "state.apply"))
    assert not called(fleet, "chatmail_relay.health")


def test_second_rollout_changes_nothing_and_still_asks_for_health(fleet):
    found = converge(fleet, answers(RELAYS, apply=dict.fromkeys(RELAYS, relay(dry=SAME))))
    assert found["result"] is True
    assert found["changes"] == {}
    assert all(arguments["test"] for _, arguments in called(fleet, "state.apply"))
    assert len(called(fleet, "chatmail_relay.health")) == 4


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {
                "apply": {
                    "r3": [
                        "Rendering SLS failed: size: 'many'\n/var/x.jinja(6):\n---\n{#- a\n---",
                        "another",
                    ]
                }
            },
            "r3: dry run: Rendering SLS failed: size: 'many'; another\n",
        ),
        (
            {"apply": {"r3": relay(dry=states(False, comment="port 25: exim4"))}},
            "r3: dry run: chatmail other: port 25: exim4",
        ),
        (
            {"apply": {"r3": relay(real=states(False, comment="no disk"))}},
            "r3: converge: chatmail other: no disk",
        ),
        ({"apply": {"r3": SILENT}}, "r3: dry run: silent: it does not answer the master"),
        ({"health": {"r3": ILL}}, "r3: health: units: nginx is dead"),
    ],
    ids=["pillar", "dry run", "converge", "silent", "health"],
)
def test_first_relay_that_fails_stops_the_rollout(fleet, wrong, says):
    found = converge(fleet, answers(RELAYS, **wrong))
    assert found["result"] is False
    assert says in found["comment"]
    assert "Begun: r3, r4. Untouched: r5." in found["comment"]
    # Those before are finished, and said so.
    assert found["changes"] == dict.fromkeys(["r1", "r2"], "1 states changed")
    assert not any(minion == "r5" for _, minion, _ in fleet.minions.calls)


def test_wrong_pillar_of_one_relay_leaves_those_beside_it_unchanged(fleet):
    converge(fleet, answers(RELAYS, apply={"r3": ["Pillar failed to render"]}))
    changed = [m for m, arguments in called(fleet, "state.apply") if not arguments.get("test")]
    assert changed == ["r1", "r2"]


def test_lost_message_between_relays_stops_the_rollout(fleet):
    given = answers(RELAYS)
    nothing = {f"{name}.example": {} for name in RELAYS}
    given["chatmail_ping.seen"]["r4"] = lambda **_given: {"result": True, **nothing}
    found = converge(fleet, given)
    assert found["result"] is False
    assert "messages between relays: " in found["comment"]
    assert "not in the mailbox" in found["comment"]


def test_canaries_can_run_another_release(fleet):
    converge(fleet, answers(RELAYS), saltenv="v2026.12")
    environments = {arguments["saltenv"] for _, arguments in called(fleet, "state.apply")}
    assert environments == {"v2026.12"}


def call(fleet, answer, test=False):
    given = {"chatmail_certificate.renew": {**dict.fromkeys(RELAYS, HEALTHY), "r2": answer}}
    return fleet.state(
        "called",
        given,
        test=test,
        name="renew",
        relays=RELAYS,
        at_once=2,
        function="chatmail_certificate.renew",
        arguments={"force": True},
    )


def test_function_is_called_on_all_relays(fleet):
    found = call(fleet, HEALTHY)
    assert found["result"] is True
    assert found["changes"] == dict.fromkeys(RELAYS, "chatmail_certificate.renew ran")
    assert [minion for minion, given in called(fleet, "chatmail_certificate.renew")] == RELAYS
    assert called(fleet, "chatmail_certificate.renew")[0][1] == {"force": True}


def test_function_that_fails_stops_the_others(fleet):
    found = call(fleet, {"result": False, "comment": "the ACME server is down"})
    assert found["result"] is False
    assert "r2: chatmail_certificate.renew: the ACME server is down" in found["comment"]
    assert "Untouched: r3, r4, r5." in found["comment"]


def test_dry_run_calls_nothing(fleet):
    found = call(fleet, HEALTHY, test=True)
    assert found["result"] is None
    assert fleet.minions.calls == []
