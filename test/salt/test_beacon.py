"""The beacon: it tells a master what is wrong with a relay, once for each change."""

import pytest
import salt.loader
import yaml
from salt.exceptions import CommandExecutionError
from support.played_back import REPOSITORY

WELL = {"stopped_units": 0, "certificate_days": 60, "queue": 3, "disk_free": 70}


@pytest.fixture
def beacon(salt_opts, tmp_path):
    """Return look(found, config): what the beacon fires when the relay has these figures."""
    (tmp_path / "extmods" / "beacons").symlink_to(REPOSITORY / "_beacons")
    now = {}

    def call(part, do):
        assert (part, do) == ("health", "watched")
        if now["found"] is None:
            raise CommandExecutionError("not a relay yet")
        return now["found"]

    loaded = salt.loader.beacons(salt_opts, {"chatmail_program.call": call})

    def look(found, *limits):
        now["found"] = found
        config = [{"interval": 300}, *limits, {"_beacon_name": "chatmail_relay"}]
        assert loaded["chatmail_relay.validate"](config) == (True, "")
        return loaded["chatmail_relay.beacon"](config)

    look.validate = loaded["chatmail_relay.validate"]
    look.limits = look.validate.func.__globals__["LIMITS"]
    return look


def test_relay_that_is_well_says_nothing(beacon):
    assert beacon(WELL) == []
    # Unknown figures are no fault.
    assert beacon({**WELL, "certificate_days": None, "queue": None}) == []


@pytest.mark.parametrize(
    "figure",
    [{"stopped_units": 1}, {"certificate_days": 13}, {"queue": 1001}, {"disk_free": 9}],
    ids=lambda figure: next(iter(figure)),
)
def test_fault_is_told_once_and_its_end_too(beacon, figure):
    ill = {**WELL, **figure}
    assert beacon(ill) == [{"wrong": list(figure), **ill}]
    assert beacon(ill) == []
    assert beacon(WELL) == [{"wrong": [], **WELL}]
    assert beacon(WELL) == []


def test_second_fault_is_told_beside_the_first(beacon):
    beacon({**WELL, "queue": 5000})
    [event] = beacon({**WELL, "queue": 5000, "disk_free": 1})
    assert event["wrong"] == ["queue", "disk_free"]


def test_configuration_has_other_limits(beacon):
    assert beacon({**WELL, "queue": 4000}, {"queue": 5000}) == []
    assert beacon({**WELL, "disk_free": 25}, {"disk_free": 30})[0]["wrong"] == ["disk_free"]


def test_machine_that_is_no_relay_yet_says_nothing(beacon):
    assert beacon(None) == []


def test_configuration_of_the_example_is_right_and_has_the_usual_limits(beacon):
    example = yaml.safe_load((REPOSITORY / "pillar.example").read_text())
    limits = example["beacons"]["chatmail_relay"]
    assert beacon.validate(limits) == (True, "")
    assert {k: v for each in limits for k, v in each.items()} == {**beacon.limits, "interval": 300}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"queue": 1}, "expected a list"),
        (["queue"], "expected a list"),
        ([{"queues": 1}], "queues: expected stopped_units"),
        ([{"queue": "many"}], "queue: 'many'; expected a whole number"),
        ([{"queue": True}], "queue: True; expected a whole number"),
    ],
)
def test_wrong_configuration_is_named(beacon, config, said):
    right, why = beacon.validate(config)
    assert not right
    assert said in why
