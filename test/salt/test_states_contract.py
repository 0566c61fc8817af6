"""All states of our own keep one contract: one shape of result, dry runs, errors, an example."""

import ast
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from salt.exceptions import CommandExecutionError, SaltInvocationError

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "_states").glob("*.py"))
SHAPE = {"name", "result", "changes", "comment"}


def functions(path):
    """Return the functions of a file that Salt would offer as states."""
    tree = ast.parse(path.read_text())
    found = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
    return [each for each in found if not each.name.startswith("_")]


STATES = [
    pytest.param(path, function, id=f"{path.stem}.{function.name}")
    for path in FILES
    for function in functions(path)
]


@pytest.mark.parametrize(("path", "function"), STATES)
def test_state_does_all_its_work_inside_the_block_that_turns_errors_into_results(path, function):
    """A state is `ret = {…}`, `with _failing(ret):` around all its work, and `return ret`."""
    _docstring, *body = function.body
    kinds = [ast.Assign, ast.With, ast.Return]
    # Before the block, a state may only compute a value from its arguments.
    simple = [each for each in body[1:-2] if isinstance(each, ast.Assign)]
    assert [type(each) for each in body if each not in simple] == kinds
    assert ast.unparse(body[-2].items[0]) == "_failing(ret)"
    assert ast.unparse(body[-1]) == "return ret"
    shape = body[0].value
    assert ast.unparse(body[0].targets[0]) == "ret"
    assert {key.value for key in shape.keys} == SHAPE
    assert not [each for each in simple if list(filter(is_call, ast.walk(each)))]


def is_call(node):
    """Tell whether a node calls a function of Salt."""
    return isinstance(node, ast.Call) and "__salt__" in ast.unparse(node)


def test_errors_become_results_in_the_same_way_in_each_file():
    """A file of states cannot import from another one, so each file has a copy of `_failing`."""
    copies = {
        ast.unparse(node)
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "_failing"
    }
    assert len(copies) == 1
    assert all("def _failing(ret):" in path.read_text() for path in FILES)


@pytest.mark.parametrize(("path", "function"), STATES)
def test_state_has_an_example_with_its_own_arguments(path, function):
    text = inspect.cleandoc(ast.get_docstring(function))
    example = re.search(r"\.\. code-block:: yaml\n\n((?: {4}.*\n?|\n)+)", text)[1]
    # YAML cannot read Jinja's braces, so a text replaces them.
    example = yaml.safe_load(re.sub(r"\{\{.*?\}\}", "x", example))
    [(name, given)] = next(iter(example.values())).items()
    # An .sls never names mod_watch: Salt calls it for a state that watches.
    called = {f"{path.stem}.{each.name}" for each in functions(path)}
    assert name in (called if function.name == "mod_watch" else {f"{path.stem}.{function.name}"})
    known = {each.arg for each in function.args.args}
    requisites = {"failhard", "name", "require", "require_in", "watch"}
    assert {key for each in given for key in each} - known - requisites == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_name_of_the_module_is_the_name_of_the_file(path):
    text = path.read_text()
    assert f'__virtualname__ = "{path.stem}"' in text
    assert "def __virtual__():" in text


# The arguments with which these tests call each state, beside `name`.
CALLS = {
    "chatmail_binary.downloaded": {"source": "x", "sha256": "0" * 64},
    "chatmail_certificate.self_signed": {"key": "k", "subject_names": []},
    "chatmail_certificate.acme_account": {"settings": {}},
    "chatmail_certificate.acme": {"settings": {}},
    "chatmail_certificate.external": {"certificate": "c", "key": "k", "subject_names": []},
    "chatmail_command.run": {"needed": "true"},
    "chatmail_dkim.key_present": {},
    "chatmail_dkim.rotated": {},
    "chatmail_dns.published": {},
    "chatmail_dns.verified": {"wait": 0},
    "chatmail_original.kept": {},
    "chatmail_original.restored": {},
    "chatmail_package.together": {},
    "chatmail_package.installed": {"pkgs": ["x"]},
    "chatmail_fleet.converged": {"relays": ["relay"]},
    "chatmail_fleet.called": {"relays": ["relay"], "function": "test.ping"},
    "chatmail_move.moved": {"source": "old", "target": "new"},
    "chatmail_move.purged": {"source": "old", "target": "new"},
    "chatmail_relay.ports_free": {},
    "chatmail_relay.master_found": {},
    "chatmail_relay.kernel_limit": {"value": 1},
    "chatmail_service.running": {},
    "chatmail_service.dead": {},
    "chatmail_service.reloaded": {},
    "chatmail_service.mod_watch": {},
    "chatmail_website.built": {"program": "/p", "settings": {}},
    "chatmail_website.mod_watch": {"program": "/p", "settings": {}},
}


class Failing(dict):
    """A `__salt__` of which each function raises the same error."""

    def __init__(self, error):
        self.error = error

    def __contains__(self, name):
        return True

    def __missing__(self, name):
        if name == "chatmail_program.awaited":
            return lambda part: ""

        def fail(*_arguments, **_keywords):
            raise self.error

        return fail


@pytest.mark.parametrize(
    "error",
    [
        CommandExecutionError("the words of the error"),
        SaltInvocationError("the words of the error"),
        OSError("the words of the error"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("test", [True, False])
@pytest.mark.parametrize("state", CALLS)
def test_error_is_a_failed_state_with_its_words_and_no_traceback(state, test, error, tmp_path):
    module = load(state.partition(".")[0], error, test)
    name = str(tmp_path / "name")
    ret = getattr(module, state.partition(".")[2])(name=name, **CALLS[state])
    assert set(ret) == SHAPE
    assert ret["name"] == name
    if ret["result"] is None:
        # This dry run announces changes and has called no function of Salt.
        assert test
        assert ret["changes"]
        return
    assert ret["result"] is False
    assert ret["changes"] == {}
    known = ["the words of the error", "No such file or directory"]
    assert any(words in ret["comment"] for words in known)


def load(name, error, test):
    """Return a module of states in which each function of Salt raises an error."""
    text = (ROOT / "_states" / f"{name}.py").read_text()
    module = SimpleNamespace()
    opts = {"test": test, "file_client": "remote", "master": "salt", "cachedir": "/nonexistent"}
    failing = Failing(error)
    vars(module).update(__salt__=failing, __utils__=failing, __opts__=opts, __name__=name)
    vars(module).update(__context__={}, __lowstate__=[], __running__={})
    exec(compile(text, name, "exec"), vars(module))
    return module


def test_each_state_is_called_in_this_file():
    assert set(CALLS) == {each.id for each in STATES}
