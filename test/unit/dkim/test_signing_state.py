"""signing.json: which keys sign, which follow, which are retired, and for how long."""

import datetime
import json

import pytest
from chatmaild.common.errors import InvalidRequest, OperatorError
from chatmaild.dkim import key_files, key_records, signing_state
from support import relay_keys
from support.relay_keys import DOMAIN

SETTINGS = {"mail_domain": DOMAIN, "dkim_required": True, "dkim": {"retire_after": 14}}
WITHOUT_DOMAIN = SETTINGS | {"mail_domain": "192.0.2.5", "dkim_required": False}


class Clock:
    """Stands for the class datetime of the module of the same name, at a moment of the test's."""

    UTC = datetime.UTC

    class datetime(datetime.datetime):
        moment = datetime.datetime(2026, 11, 22, 12, 0, 0, 654321, datetime.UTC)

        @classmethod
        def now(cls, zone):
            return cls.moment.astimezone(zone)


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Three keys, of which none signs yet."""
    relay_keys.keep_in(tmp_path / "dkim", monkeypatch)
    for selector in ("one", "two", "three"):
        key_files.generate(selector, "ed25519-sha256")
    return tmp_path / "dkim"


@pytest.fixture
def clock(monkeypatch):
    """Lets the test set the time."""
    monkeypatch.setattr(Clock.datetime, "moment", Clock.datetime.moment)
    monkeypatch.setattr(signing_state, "datetime", Clock)
    return Clock.datetime


def written(directory):
    return json.loads((directory / "signing.json").read_text())


def names(records):
    return [record["name"].partition(".")[0] for record in records]


def test_state_without_a_file_has_no_keys():
    assert signing_state.read_state() == {"selectors": [], "next": [], "retired": []}
    assert key_records.list_records(SETTINGS) == []


def test_state_that_cannot_be_read_says_what_to_do(directory):
    (directory / "signing.json").mkdir()
    with pytest.raises(OperatorError, match=r"signing\.json cannot be read .*: restore it"):
        signing_state.read_state()


@pytest.mark.parametrize("selectors", ["two,one", ["two", "one"], ("two", "one")])
def test_signing_with_keys_goes_by_their_order(directory, clock, selectors):
    assert signing_state.sign_with(selectors) == ["two", "one"]
    entry = {"algorithm": "ed25519-sha256", "since": "2026-11-22T12:00:00+00:00"}
    assert written(directory) == {
        "selectors": [{"selector": "two"} | entry, {"selector": "one"} | entry],
        "next": [],
        "retired": [],
    }


def test_key_that_signs_no_more_is_retired_from_that_moment(directory, clock):
    signing_state.sign_with("one,two")
    clock.moment += datetime.timedelta(days=3)
    signing_state.sign_with("two,three")
    state = signing_state.read_state()
    moments = {
        kind: [(key["selector"], key["since"][:10]) for key in keys] for kind, keys in state.items()
    }
    assert moments == {
        "selectors": [("two", "2026-11-22"), ("three", "2026-11-25")],
        "next": [],
        "retired": [("one", "2026-11-25")],
    }
    clock.moment += datetime.timedelta(days=1)
    signing_state.sign_with("one")
    state = signing_state.read_state()
    assert [key["selector"] for key in state["selectors"]] == ["one"]
    assert state["selectors"][0]["since"] == "2026-11-26T12:00:00+00:00"
    assert [key["selector"] for key in state["retired"]] == ["two", "three"]


def test_key_that_was_to_be_next_signs_and_is_next_no_more(directory):
    signing_state.sign_with("one")
    state = signing_state.read_state()
    two = {"selector": "two", "algorithm": "ed25519-sha256", "since": "2026-11-22T12:00:00+00:00"}
    signing_state.save_state(state | {"next": [two, two | {"selector": "three"}]})
    signing_state.sign_with("two")
    found = {selector: key["status"] for selector, key in signing_state.list_keys().items()}
    assert list(found.items()) == [("two", "signing"), ("three", "next"), ("one", "retired")]


def test_relay_always_signs(directory):
    signing_state.sign_with("one")
    before = written(directory)
    with pytest.raises(InvalidRequest, match="at least one"):
        signing_state.sign_with([])
    with pytest.raises(OperatorError, match=r"four\.pem is missing"):
        signing_state.sign_with("four")
    assert written(directory) == before


def test_keys_are_changed_by_one_process_at_a_time(directory):
    with (
        signing_state.locked(),
        pytest.raises(OperatorError, match="another process changes the keys"),
    ):
        signing_state.sign_with("one")
    assert not (directory / "signing.json").exists()
    signing_state.sign_with("one")


def test_lock_is_there_before_the_first_key(tmp_path, monkeypatch):
    monkeypatch.setattr(key_files, "DIRECTORY", tmp_path / "new" / "dkim")
    with signing_state.locked():
        assert key_files.DIRECTORY.is_dir()


def test_unused_key_is_as_old_as_its_file(directory):
    signing_state.sign_with("two")
    found = signing_state.list_keys()
    assert list(found) == ["two", "one", "three"]
    moment = datetime.datetime.fromisoformat(found["one"]["since"])
    assert moment.timestamp() == int((directory / "one.pem").stat().st_mtime)
    assert found["one"]["bits"] == 256


@pytest.mark.parametrize(
    ("later", "kept"),
    [
        ({"days": 0}, True),
        ({"days": 14, "seconds": -1}, True),
        ({"days": 14}, False),
        ({"days": 14, "seconds": 1}, False),
    ],
)
def test_record_of_a_retired_key_stays_for_as_long_as_the_setting_says(clock, later, kept):
    signing_state.sign_with("one")
    signing_state.sign_with("two")
    clock.moment += datetime.timedelta(**later)
    assert names(key_records.list_records(SETTINGS)) == (["two", "one"] if kept else ["two"])
    withdrawn = [] if kept else [f"one._domainkey.{DOMAIN}."]
    assert key_records.list_withdrawn(SETTINGS) == withdrawn


def test_records_are_of_the_keys_that_sign_follow_and_were_retired(clock):
    signing_state.sign_with("one")
    signing_state.sign_with("two")
    state = signing_state.read_state()
    signing_state.save_state(state | {"next": [state["selectors"][0] | {"selector": "three"}]})
    records = key_records.list_records(SETTINGS)
    assert names(records) == ["two", "three", "one"]
    assert {(record["type"], record["ttl"]) for record in records} == {("TXT", 3600)}


def test_relay_without_a_domain_has_no_records(clock):
    signing_state.sign_with("one")
    signing_state.sign_with("two")
    clock.moment += datetime.timedelta(days=20)
    assert key_records.list_records(WITHOUT_DOMAIN) == []
    assert key_records.list_withdrawn(WITHOUT_DOMAIN) == []


def test_record_for_a_zone_file_is_cut_after_255_bytes():
    """RFC 1035 section 3.3."""
    key_files.generate("long", "rsa-sha256", 4096)
    told = key_records.describe_record(SETTINGS, "long")
    assert [len(chunk) for chunk in told["chunks"]] == [255, 255, len(told["value"]) - 510]
    assert "".join(told["chunks"]) == told["value"]
