"""The status of a canary, which runs another release than the other relays."""

import importlib.util
from pathlib import Path

import pytest
from support.played_back import Fleet

STATUS = "chatmail_overview.status"
OVERVIEW = Path(__file__).resolve().parents[2] / "_modules/chatmail_overview.py"
WELL = {"result": True, "comment": ""}


@pytest.mark.parametrize(
    ("saltenv", "asked"),
    [("v2026.12", {"drift": True, "saltenv": "v2026.12"}), ("", {"drift": True})],
    ids=["another release", "the same release"],
)
def test_only_a_canary_with_another_release_is_asked_for_it(tmp_path, monkeypatch, saltenv, asked):
    """Once, status compared a canary with base, and so gave it the modules of base."""
    pillar = {"relays": ["r1", "r2"], "canaries": ["r1"], "canary_saltenv": saltenv}
    fleet = Fleet(tmp_path, monkeypatch, {"chatmail_fleet": pillar})
    fleet.call("status", {STATUS: {"r1": WELL, "r2": WELL}})
    assert {relay: given for _, relay, given in fleet.minions.calls} == {
        "r1": asked,
        "r2": {"drift": True},
    }


@pytest.mark.parametrize("saltenv", [None, "v2026.12"])
def test_drift_is_what_the_given_environment_would_change(saltenv):
    spec = importlib.util.spec_from_file_location("overview", OVERVIEW)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    applied = []

    def apply(mods, **given):
        applied.append((mods, given))
        return {"a": {"__id__": "chatmail a", "__run_num__": 0, "result": None}}

    module.__salt__ = {
        "state.apply": apply,
        "chatmail_relay.status": lambda: {"certificate": None, "addresses": 0},
        "chatmail_relay.health": lambda: {"result": True, "steps": []},
        "chatmail_program.call": lambda *_given: {},
        "chatmail_program.settings": lambda: {"formula": "2026.12"},
    }
    assert module.status(saltenv=saltenv)["drift"] == ["chatmail a"]
    environment = {"saltenv": saltenv} if saltenv else {}
    assert applied == [("chatmail", {"test": True, **environment})]
