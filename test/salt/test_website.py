"""The state chatmail_website.built, which builds the web pages."""

import os
import subprocess
import sys

import pytest
from support.website import PROGRAM, ROOT, load, settings


def run_all(command, stdin, stdin_raw_newlines, python_shell):
    """Answer as Salt's cmd.run_all does."""
    assert stdin_raw_newlines is True
    assert python_shell is False
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    return {"retcode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


@pytest.fixture
def state():
    """Return the state module, as Salt's loader prepares it."""
    module = load(ROOT / "_states/chatmail_website.py")
    module.__opts__ = {"test": False}
    module.__salt__ = {"cmd.run_all": run_all}
    module.PYTHON = sys.executable
    return module


def test_state_dry_run_announces_the_changes_and_a_second_run_has_none(state, tmp_path):
    arguments = {"name": str(tmp_path / "www"), "program": str(PROGRAM), "settings": settings()}
    state.__opts__["test"] = True
    announced = state.built(**arguments)
    assert announced["result"] is None
    assert not (tmp_path / "www").exists()
    state.__opts__["test"] = False
    done = state.built(**arguments)
    assert done["result"] is True
    assert done["changes"] == announced["changes"]
    assert "index.html" in done["changes"]["added"]
    for test in (False, True):
        state.__opts__["test"] = test
        again = state.built(**arguments)
        assert (again["result"], again["changes"]) == (True, {})


def test_state_dry_run_before_the_program_exists_would_build(state, tmp_path):
    state.__opts__["test"] = True
    answer = state.built(str(tmp_path / "www"), str(tmp_path / "build.py"), settings())
    assert answer["result"] is None
    assert answer["changes"]
    assert "not installed yet" in answer["comment"]


def test_state_dry_run_before_the_packages_exist_would_build(state, tmp_path):
    program = tmp_path / "build.py"
    program.write_text("import chatmail_package_that_is_missing")
    state.__opts__["test"] = True
    assert state.built(str(tmp_path / "www"), str(program), settings())["result"] is None
    state.__opts__["test"] = False
    assert state.built(str(tmp_path / "www"), str(program), settings())["result"] is False


@pytest.mark.parametrize("test", [False, True])
def test_state_fails_with_the_message_of_the_program(state, tmp_path, test):
    state.__opts__["test"] = test
    answer = state.built(str(tmp_path / "www"), str(PROGRAM), settings(www_folder="/nonexistent"))
    assert answer["result"] is False
    assert answer["changes"] == {}
    assert "www_folder is /nonexistent" in answer["comment"]


def test_state_dry_run_with_a_changed_source_would_build(state, tmp_path):
    """A dry run compares with the old sources on the machine, for which the pages are right."""
    state.__opts__["test"] = True
    answer = state.mod_watch(str(tmp_path), str(PROGRAM), settings(), sfun="built")
    assert answer["result"] is None
    assert answer["changes"]


def count_builds(state):
    """Return a list that grows with each run of the program."""
    runs = []

    def counted(*arguments, **keywords):
        runs.append(1)
        return run_all(*arguments, **keywords)

    state.__salt__ = {"cmd.run_all": counted}
    return runs


def test_state_builds_only_if_something_differs(state, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "index.md").write_text("one")
    packages = tmp_path / "status"
    packages.write_text("")
    state.PACKAGES = str(packages)
    root = tmp_path / "www"
    runs = count_builds(state)

    def built(**changed):
        before = len(runs)
        ret = state.built(str(root), str(PROGRAM), settings(www_folder=str(folder), **changed))
        assert ret["result"] is True, ret
        return len(runs) - before, ret["changes"]

    assert built()[0] == 1
    assert built() == (0, {})
    (folder / "index.md").write_text("two")
    assert built() == (1, {"changed": ["index.html"]})
    (root / "index.html").write_text("an edit by hand")
    assert built() == (1, {"changed": ["index.html"]})
    (root / "foreign").symlink_to(packages)
    assert built() == (1, {"removed": ["foreign"]})
    packages.touch()
    os.utime(packages, ns=(0, 0))
    assert built() == (1, {})
    assert built(mail_domain="_other.example.org")[0] == 1
    assert built(mail_domain="_other.example.org") == (0, {})


def test_state_dry_run_neither_builds_nor_notes_that_it_has(state, tmp_path):
    arguments = (str(tmp_path / "www"), str(PROGRAM), settings())
    state.__opts__["test"] = True
    assert state.built(*arguments)["result"] is None
    assert list(tmp_path.iterdir()) == []
    assert state.built(*arguments)["result"] is None
