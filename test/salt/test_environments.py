"""The formula in another environment of Salt's than base."""

import json

import pytest
from salt.exceptions import CommandExecutionError

PILLAR = {"chatmail": {"mail_domain": "_chat.example.org"}}
# The first state is one of ours, which asks a module of ours, which renders the settings.
SLS = """
include:
  - chatmail.modules
limit:
  chatmail_relay.kernel_limit:
    - name: kernel.pid_max
    - value: 1
settings:
  module.run:
    - chatmail_relay.settings: []
"""


@pytest.fixture
def call(salt_call, tmp_path):
    """Return salt_call(*arguments) on a minion that has the formula in the environment prod.

    The environment base has a module and states of another formula.
    """
    base = tmp_path / "base"
    (base / "_modules").mkdir(parents=True)
    (base / "_modules/somebody.py").write_text('def word():\n    return "else"\n')
    (base / "top.sls").write_text("base: {'*': [other]}")
    (base / "other.sls").write_text("other: {test.nop: []}")
    roots = {"base": [str(base)], "prod": [str(salt_call.roots)]}

    def call(*arguments):
        return salt_call(*arguments, sls={"own": SLS}, pillar=PILLAR, file_roots=roots)

    return call


def states(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return {each["__id__"]: each for each in done.returned.values()}


def test_formula_in_another_environment_finds_its_modules_and_keeps_those_of_base(call):
    """Once, a sync of one environment removed the modules of the other environments.

    A sync of base removed ours, so our states ended with a traceback. A sync of our environment
    removed the modules of base.
    """
    assert call("saltutil.sync_modules").returned == ["modules.somebody"]
    for test in ("test=True", "test=False", "test=False"):
        applied = states(call("state.apply", "own", "saltenv=prod", test))
        assert applied["limit"]["result"] is True
    assert applied["chatmail modules and states are of this release"]["name"] == "they were current"
    shown = applied["settings"]["changes"]["chatmail_relay.settings"]
    assert shown["mail_domain"] == "_chat.example.org"
    assert call("somebody.word").returned == "else"
    assert states(call("state.apply"))["other"]["result"] is True


def test_settings_say_where_the_formula_is_missing(call):
    """Once, the function returned an empty dictionary, as if all were well."""
    states(call("state.apply", "own", "saltenv=prod"))
    done = call("chatmail_relay.settings")
    assert done.returncode != 0
    output = json.dumps(done.returned) + done.stderr
    assert "salt://chatmail/settings.py" in output
    assert "environment base" in output
    assert "prod" in output
    assert "Traceback" not in output


def test_settings_that_render_to_nothing_are_an_error(salt_modules, salt_opts):
    salt_opts["saltenv"] = "elsewhere"
    with pytest.raises(CommandExecutionError, match="environment elsewhere"):
        salt_modules["chatmail_relay.settings"]()
