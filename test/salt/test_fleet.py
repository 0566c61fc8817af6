"""The runner chatmail_fleet, with answers that are played back: bounds, silence, tables, JSON."""

import json
import re
import stat

import pytest
from salt.exceptions import SaltInvocationError
from support.played_back import RESTARTED, SILENT, Cached, Fleet, Late, Slow

STATUS = "chatmail_overview.status"
NAMES = [f"relay{number:03}.example.org" for number in range(1, 101)]
WELL = {
    "result": True,
    "formula": "2026.11",
    "health": [],
    "certificate": 61,
    "dns": "ok",
    "addresses": 1234,
    "queue": 3,
    "disk_free": 71,
    "expired": "2026-11-26T01:12Z",
    "drift": [],
    "comment": "",
}
ILL = {**WELL, "result": False, "health": ["units"], "comment": "units: coturn is inactive"}


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    return Fleet(tmp_path, monkeypatch)


def status(fleet, answers, **named):
    return fleet.call("status", {STATUS: answers}, list(answers), **named)


@pytest.mark.timeout(10)
def test_hundred_relays_fit_into_a_table_that_reads_well(fleet):
    answers = {**dict.fromkeys(NAMES, WELL), NAMES[4]: ILL, NAMES[7]: SILENT}
    found = status(fleet, answers)
    lines = fleet.show(found).splitlines()
    assert re.split(r"  +", lines[0].strip())[:6] == [
        *("relay", "formula", "health", "certificate", "dns", "addresses")
    ]
    assert [line.split()[0] for line in lines[1:4]] == NAMES[:3]
    assert lines[5].startswith(f"!  {NAMES[4]}")
    assert lines[8].startswith(f"?  {NAMES[7]}")
    # One row each, what is wrong, and the count.
    assert lines[101] == f"{NAMES[4]}: units: coturn is inactive"
    assert lines[102].startswith(f"{NAMES[7]}: silent")
    assert lines[103] == (f"100 relays, 98 well, 1 with faults ({NAMES[4]}), 1 silent ({NAMES[7]})")
    assert len(lines) == 104
    assert max(map(len, lines)) <= 140
    assert found["retcode"] == 2


def test_json_has_all_of_the_result(fleet):
    found = status(fleet, {"r1": WELL, "r2": ILL, "r3": SILENT})
    shown = json.loads(fleet.show(found, "json"))
    assert shown["retcode"] == 2
    assert shown["data"]["r1"] == {"answered": True, **WELL}
    assert shown["data"]["r3"]["answered"] is False


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"r1": WELL, "r2": WELL}, 0),
        ({"r1": WELL, "r2": ILL}, 1),
        ({"r1": ILL, "r2": SILENT}, 2),
        ({}, 1),
    ],
    ids=["well", "fault", "silent", "no relay"],
)
def test_exit_code_says_whether_all_is_well_and_all_answered(fleet, answers, code):
    assert status(fleet, answers)["retcode"] == code


@pytest.mark.parametrize("bound", [1, 7])
def test_no_more_relays_work_at_once_than_asked_for(fleet, bound):
    status(fleet, dict.fromkeys(NAMES[:30], WELL), at_once=bound)
    assert fleet.minions.most == bound
    assert len(fleet.minions.calls) == 30


def test_bound_and_relays_come_from_the_pillar_of_the_master(tmp_path, monkeypatch):
    pillar = {"chatmail_fleet": {"relays": ["r2", "r1"], "at_once": 1}}
    fleet = Fleet(tmp_path, monkeypatch, pillar)
    found = fleet.call("status", {STATUS: {"r1": WELL, "r2": WELL}})
    assert list(found["data"]) == ["r1", "r2"]
    assert fleet.minions.most == 1


def test_pillar_that_is_chosen_by_the_id_works_for_the_master(tmp_path, monkeypatch):
    """Once, a pillar with `grains.id` failed, because the runner gave it no grains."""
    fleet = Fleet(tmp_path, monkeypatch, {"chatmail_fleet": {"relays": ["r1"]}})
    (tmp_path / "pillar/top.sls").write_text("base: {'{{ grains.id }}': [fleet]}")
    assert list(fleet.call("status", {STATUS: {"r1": WELL}})["data"]) == ["r1"]


def test_job_that_takes_longer_than_all_timeouts_of_salt_is_awaited(fleet):
    """Salt's batch mode calls such a job lost, and ends with exit code 0."""
    found = status(fleet, {"r1": Late(WELL, 50)})
    assert (found["retcode"], found["data"]["r1"]["addresses"]) == (0, 1234)


def test_minion_that_is_too_busy_to_answer_in_time_is_awaited(fleet):
    """Once such a minion was called silent in its first converge, because it answered late."""
    found = status(fleet, {"r1": Slow(WELL, 50)})
    assert (found["retcode"], found["data"]["r1"]["addresses"]) == (0, 1234)


def test_minion_that_restarts_in_the_middle_is_named(fleet):
    entry = status(fleet, {"r1": RESTARTED, "r2": WELL})["data"]["r1"]
    assert (entry["result"], entry["answered"]) == (False, True)
    assert "restarted in the middle" in entry["comment"]


def test_answer_whose_event_was_lost_comes_from_the_job_cache(fleet):
    found = status(fleet, {"r1": Cached(WELL)})
    assert (found["retcode"], found["data"]["r1"]["queue"]) == (0, 3)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (f"'{STATUS}' is not available.", "saltutil.sync_modules"),
        ("Traceback (most recent call last):\n  File x\nOSError: no room", "OSError: no room"),
        (None, "None"),
        ("", "returned nothing"),
        (["a", "list"], "a; list"),
        ("ERROR: /etc/chatmail/relay.json: expected the settings", "expected the settings"),
    ],
)
def test_wrong_answer_is_a_fault_of_that_relay_only(fleet, answer, said):
    found = status(fleet, {"r1": answer, "r2": WELL})
    assert said in found["data"]["r1"]["comment"]
    assert found["data"]["r2"]["result"] is True
    assert found["retcode"] == 1
    assert said in fleet.show(found)


def test_minion_that_the_master_does_not_know_is_named(fleet):
    found = fleet.call("status", {STATUS: {"r1": WELL}}, ["r1", "typo"])
    assert "knows no minion of this name" in found["data"]["typo"]["comment"]


def test_each_answer_is_an_event_without_the_answer(fleet):
    status(fleet, {"r1": WELL, "r2": ILL})
    tag = "salt/run/20261126163000000000/progress"
    assert fleet.minions.told == [
        (tag, {"minion": "r1", "done": 1, "of": 2, "result": True}),
        (tag, {"minion": "r2", "done": 2, "of": 2, "result": True}),
    ]


def test_versions_and_rotation_are_tables_too(fleet):
    versions = {"formula": "2026.11", "salt": "3008.3", "debian": 13, "postfix": "3.10.5-1"}
    found = fleet.call("versions", {"chatmail_overview.versions": {"r1": versions}}, ["r1"])
    assert fleet.show(found).splitlines()[1].split() == ["r1", *map(str, versions.values())]
    step = {"step": "waiting", "comment": "publish these", "signing": ["r1"], "publish": [{}, {}]}
    found = fleet.call("rotate", {"chatmail_dkim.rotate": {"r1": step}}, ["r1"], wait=5)
    assert fleet.minions.calls == [("chatmail_dkim.rotate", "r1", {"wait": 5, "force": False})]
    assert fleet.show(found).splitlines()[1:3] == [
        "   r1     waiting  r1       2",
        "r1: publish these",
    ]


def test_dns_differences_and_files(fleet, tmp_path):
    wrong = {"result": False, "domain": "a.example.org", "wrong": ["a.example.org. MX missing"]}
    hostile = {"result": True, "domain": "../../b", "wrong": [], "zone": "zone of b\n"}
    answers = {"r1": {**wrong, "zone": "zone of a\n"}, "r2": hostile}
    found = fleet.call(
        "dns", {"chatmail_overview.dns": answers}, list(answers), files=tmp_path / "z"
    )
    assert (tmp_path / "z/r1.zone").read_text() == "zone of a\n"
    assert (tmp_path / "z/r2.zone").read_text() == "zone of b\n"
    assert sorted(path.name for path in tmp_path.glob("**/*.zone")) == ["r1.zone", "r2.zone"]
    assert "zone" not in found["data"]["r1"]
    assert "a.example.org. MX missing" in fleet.show(found)
    assert found["retcode"] == 1


def test_invitations_are_in_the_file_and_their_tokens_nowhere_else(fleet, tmp_path):
    def invited(uses, days, note, digest):
        link, code = "https://chat.example.org/#{token}", "DCACCOUNT:x?token={token}"
        return {"id": "i1", "link": link, "code": code, "uses": uses, "until": "2026-12-03"}

    file = tmp_path / "invitations"
    answers = {"chatmail_accounts.invite": {"r1": invited, "r2": SILENT, "r3": invited}}
    found = fleet.call("invite", answers, str(file), ["r1", "r2", "r3"], uses=5)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [line.split("\t") for line in file.read_text().splitlines()]
    assert [line[0] for line in lines] == ["r1", "r3"]
    tokens = {line[1].partition("#")[2] for line in lines}
    assert tokens == {line[2].partition("=")[2] for line in lines}
    assert len(tokens) == 2
    everywhere = json.dumps([found, fleet.minions.calls, fleet.minions.told])
    assert not [token for token in tokens if token in everywhere]
    entry = {"result": True, "answered": True, "id": "i1", "uses": 5, "until": "2026-12-03"}
    assert found["data"]["r1"] == entry
    with pytest.raises(SaltInvocationError, match="expected: a new file"):
        fleet.call("invite", answers, str(file), ["r1"])
