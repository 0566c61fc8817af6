"""The versions of messengers, and how Delta Chat's core reads them."""

import json

import pytest
from chatmaild.metadata import app_versions, entries


@pytest.fixture(autouse=True)
def paths(tmp_path, monkeypatch):
    """Return the paths of the operator's file and of the last good one. Neither exists."""
    monkeypatch.setattr(app_versions, "OPERATORS", tmp_path / "appversions.json")
    monkeypatch.setattr(app_versions, "LAST_GOOD", tmp_path / "last.json")
    app_versions._check_file.cache_clear()


def source(**changes):
    """Return a source. A value of None leaves a member out."""
    members = {
        "sourceId": "gplay",
        "versionInteger": 754,
        "versionString": "2.57.0",
        "downloadUrl": "https://example.org/a.apk",
    }
    return {name: value for name, value in (members | changes).items() if value is not None}


def versions(*sources, **more):
    return {"clients": [{"clientId": "deltachat", "sources": list(sources)}], **more}


def shown_versions():
    return entries.find_server_entry("appversions", {}, 0)


def core(text):
    """Read as Delta Chat's core does (src/appversions.rs): {(client, source): version, …}.

    serde's derived readers ignore an unknown member, and take a missing one for empty. A member of
    another type, or one that comes twice, makes the whole text invalid.
    """

    def members(found, **kinds):
        assert isinstance(found, dict)
        for name, (kind, default) in kinds.items():
            value = found.get(name, default)
            assert type(value) is kind
            yield value

    def once(pairs):
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    found = {}
    top = json.loads(text, object_pairs_hook=once, parse_constant=pytest.fail)
    [clients] = members(top, clients=(list, []))
    for client in clients:
        name, sources = members(client, clientId=(str, ""), sources=(list, []))
        for each in sources:
            kinds = {"sourceId": (str, ""), "versionInteger": (int, 0)}
            kinds |= {"versionString": (str, ""), "downloadUrl": (str, "")}
            source_id, number, *texts = members(each, **kinds)
            assert 0 <= number < 1 << 32
            found[name, source_id] = (number, *texts)
    return found


def test_core_reads_the_shipped_file():
    """Once, there was no such file. A relay then had no news of updates without an own file."""
    answer = shown_versions()
    assert "\n" not in answer
    number, version, url = core(answer)["deltachat", "gplay"]
    assert number >= 758
    assert version in url
    assert url.startswith("https://github.com/deltachat/deltachat-android/releases/download/v")


def test_operators_file_replaces_the_shipped_one_and_comes_on_one_line():
    content = versions(source(), source(sourceId="ü", versionInteger=1), note="mine")
    app_versions.OPERATORS.write_text(json.dumps(content, indent=2, ensure_ascii=False))
    answer = shown_versions()
    assert "\n" not in answer
    assert answer.isascii()
    assert json.loads(answer) == content
    assert core(answer)["deltachat", "gplay"] == (754, "2.57.0", "https://example.org/a.apk")
    app_versions.OPERATORS.unlink()
    assert core(shown_versions())["deltachat", "gplay"][0] >= 758


BAD = {
    "nothing": "",
    "half": "{",
    "no object": "[]",
    "null": "null",
    "no clients": {"android": "2.1"},
    "clients in an object": {"clients": {"deltachat": []}},
    "a client in a text": {"clients": ["deltachat"]},
    "a client without an id": {"clients": [{"sources": []}]},
    "a client without sources": {"clients": [{"clientId": "deltachat"}]},
    "a source in a list": versions(["gplay", 754]),
    "a source without an id": versions(source(sourceId=None)),
    "a source without a number": versions(source(versionInteger=None)),
    "a source without a version": versions(source(versionString=None)),
    "a number in quotes": versions(source(versionInteger="754")),
    "a number with a point": versions(source(versionInteger=754.0)),
    "a number that is none": versions(source(versionInteger=True)),
    "a number below 0": versions(source(versionInteger=-1)),
    "a number above u32": versions(source(versionInteger=1 << 32)),
    "a version that is a number": versions(source(versionString=2.57)),
    "a URL in a list": versions(source(downloadUrl=["https://example.org"])),
    "something twice": '{"clients": [], "clients": []}',
    "NaN": '{"clients": [], "note": NaN}',
    "half a surrogate pair": '{"clients": [], "note": "\\ud800"}',
    "nested too deep": '{"clients": [], "note": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "no UTF-8": b'{"clients": [], "note": "\xff"}',
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_file_that_the_core_could_not_use_leaves_the_last_good_one(bad, caplog):
    """Once, the relay sent any JSON. After a wrong one, clients had no news of updates at all."""
    content = bad if isinstance(bad, str | bytes) else json.dumps(bad)
    app_versions.OPERATORS.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert core(shown_versions())["deltachat", "gplay"][0] >= 758
    good = versions(source(versionInteger=1))
    app_versions.OPERATORS.write_text(json.dumps(good))
    assert json.loads(shown_versions()) == good
    caplog.clear()
    app_versions.OPERATORS.write_bytes(content if isinstance(content, bytes) else content.encode())
    app_versions._check_file.cache_clear()  # as after a restart
    for _ in range(3):
        assert json.loads(shown_versions()) == good
    assert len(caplog.records) == 1


def test_log_says_what_is_wrong_in_the_file(caplog):
    app_versions.OPERATORS.write_text(json.dumps(versions(source(versionInteger="754"))))
    shown_versions()
    problem = 'versionInteger of a source is "754", and a whole number is expected'
    assert problem in caplog.text


def test_last_good_file_that_cannot_be_written_or_read_does_no_harm(monkeypatch, tmp_path):
    monkeypatch.setattr(app_versions, "LAST_GOOD", tmp_path / "none" / "last.json")
    good = versions(source(versionInteger=1))
    app_versions.OPERATORS.write_text(json.dumps(good))
    assert json.loads(shown_versions()) == good
    app_versions.OPERATORS.write_text("{")
    assert core(shown_versions())["deltachat", "gplay"][0] >= 758


def test_file_that_is_a_directory_leaves_the_last_good_one(caplog):
    app_versions.OPERATORS.mkdir()
    assert core(shown_versions())["deltachat", "gplay"][0] >= 758
    assert "cannot be read" in caplog.text
