"""chatmail_original: files that ours replace, kept and given back. chatmail_command: conditions."""

import pytest

OURS = "# Managed by the chatmail formula.\n"


@pytest.fixture
def original(salt_states, tmp_path, monkeypatch):
    """Return call(function, path, test), with the place of the kept files below tmp_path."""

    def call(function, path, test=False, **arguments):
        return salt_states(f"chatmail_original.{function}", test=test, name=str(path), **arguments)

    for test in (True, False):
        call("kept", tmp_path / "missing", test=test)
        loader = salt_states.__closure__[0].cell_contents[test]
        namespace = loader["chatmail_original.kept"].func.__globals__
        monkeypatch.setitem(namespace, "KEPT", str(tmp_path / "kept"))
    return call


@pytest.fixture
def conf(tmp_path):
    path = tmp_path / "etc.conf"
    path.write_text("theirs\n")
    path.chmod(0o640)
    return path


def copy_of(path):
    return path.parent / "kept" / str(path).lstrip("/")


def test_file_that_is_not_ours_is_kept_once_and_given_back(original, conf):
    predicted = original("kept", conf, test=True)
    assert not copy_of(conf).exists()
    done = original("kept", conf)
    assert predicted["changes"] == done["changes"] != {}
    assert copy_of(conf).stat().st_mode & 0o777 == 0o640
    assert original("kept", conf)["changes"] == {}
    # Somebody else's file of a later day does not replace the first one.
    conf.write_text("later\n")
    assert original("kept", conf)["changes"] == {}
    conf.write_text(OURS)
    assert original("kept", conf)["changes"] == {}
    predicted = original("restored", conf, test=True)
    assert conf.read_text() == OURS
    assert predicted["changes"] == original("restored", conf)["changes"] != {}
    assert conf.read_text() == "theirs\n"
    assert not copy_of(conf).exists()
    assert original("restored", conf)["changes"] == {}


def test_file_of_ours_that_replaced_nothing_is_removed(original, conf):
    conf.write_text(OURS)
    assert original("kept", conf)["changes"] == {}
    assert original("restored", conf, test=True)["result"] is None
    assert original("restored", conf)["result"] is True
    assert not conf.exists()


@pytest.mark.parametrize("function", ["kept", "restored"])
def test_missing_file_is_no_reason_to_change_anything(original, tmp_path, function):
    for test in (True, False):
        ret = original(function, tmp_path / "missing", test=test)
        assert (ret["result"], ret["changes"]) == (True, {})


def test_command_runs_only_where_it_is_needed(salt_states, tmp_path):
    made = tmp_path / "made"
    arguments = {"name": f"echo 1 >> {made}", "needed": f"test ! -s {made}"}
    predicted = salt_states("chatmail_command.run", test=True, **arguments)
    assert (predicted["result"], made.exists()) == (None, False)
    assert salt_states("chatmail_command.run", **arguments)["changes"] == predicted["changes"]
    for test in (True, False):
        ret = salt_states("chatmail_command.run", test=test, **arguments)
        assert (ret["result"], ret["changes"]) == (True, {})
    assert made.read_text() == "1\n"


def test_command_that_fails_shows_its_error_and_no_change(salt_states):
    ret = salt_states("chatmail_command.run", name="echo why >&2; exit 3", needed="true")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "status 3: why" in ret["comment"]


@pytest.mark.parametrize(
    ("package", "keeps"), [("dpkg", False), ("chatmail-no-such-package", True), (None, False)]
)
def test_dry_run_predicts_the_copy_of_a_file_that_a_missing_package_brings(
    original, tmp_path, package, keeps
):
    """Once, a first dry run announced no kept original."""
    path = tmp_path / "conf"
    predicted = original("kept", path, test=True, package=package)
    assert (predicted["result"] is None, predicted["changes"] != {}) == (keeps, keeps)
    assert original("kept", path, package=package)["changes"] == {}
    path.write_text("theirs\n")
    done = original("kept", path, package=package)
    assert predicted["changes"] in ({}, done["changes"])
    # With a copy from before, nothing would be kept.
    path.unlink()
    assert original("kept", path, test=True, package=package)["changes"] == {}
