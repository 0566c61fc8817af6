"""A rollout in which a relay under somebody else's control answers anything."""

import pytest
from support.played_back import Fleet

SAME = {"a": {"result": True, "changes": {}, "comment": "", "__id__": "fine"}}
WELL = {"result": True, "steps": []}
WRONG = [
    True,
    {"a": 1},
    {"a": {"result": False}},
    {"a": {"result": False, "comment": "x"}, "b": None},
]


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        *(("state.apply", each) for each in WRONG),
        ("chatmail_relay.health", {"result": False, "steps": 7}),
        ("chatmail_relay.health", {"result": False, "steps": [7, {"result": False}]}),
        ("chatmail_relay.health", {"result": False, "comment": {"a": "\x1b[2J"}}),
    ],
)
def test_answer_of_another_form_stops_the_rollout_with_the_name_of_the_relay(
    tmp_path, monkeypatch, function, answer
):
    """Once, such an answer ended in a traceback, which named neither the relay nor the rest."""
    usual = {"state.apply": SAME, "chatmail_relay.health": WELL}
    answers = {name: {"good": usual[name], "evil": usual[name]} for name in usual}
    answers[function]["evil"] = answer
    given = {"name": "wave", "relays": ["good", "evil"], "untouched": ["other"]}
    found = Fleet(tmp_path, monkeypatch).state("converged", answers, **given)
    assert found["result"] is False
    assert found["comment"].startswith("evil: ")
    assert "Begun: good, evil. Untouched: other." in found["comment"]
    assert "\x1b" not in found["comment"]
