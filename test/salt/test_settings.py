"""The settings as Salt hands them out, the first run of our own states, and a bad pillar."""

import json

import pytest
from salt.exceptions import CommandExecutionError

GOOD = {"chatmail": {"mail_domain": "_chat.example.org", "max_mailbox_size": "1G"}}
SHOW = """
{% from "chatmail/settings.jinja" import relay with context %}
settings:
  test.configurable_test_state:
    - changes: False
    - result: True
    - comment: {{ relay | json | yaml_dquote }}
"""
OWN_STATE = """
include:
  - chatmail.modules
own state:
  chatmail_probe.compare: []
"""
# The state of a release, and the module that the state calls.
MODULE = 'def word():\n    return "{word}"\n'
STATE = """
def compare(name):
    comment = "{word} " + __salt__["chatmail_probe.word"]()
    return {{"name": name, "changes": {{}}, "result": True, "comment": comment}}
"""


def states(done):
    """Return the states of a run that went well, by their ids."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(each["result"] is True for each in done.returned.values())
    return {each["__id__"]: each for each in done.returned.values()}


@pytest.mark.parametrize("raise_on_missing", [False, True])
def test_partial_pillar_keeps_the_defaults_in_templates(salt_call, raise_on_missing):
    done = salt_call(
        "state.apply",
        "probe",
        sls={"probe": SHOW},
        pillar=GOOD,
        pillar_raise_on_missing=raise_on_missing,
    )
    relay = json.loads(states(done)["settings"]["comment"])
    assert relay["mail_domain"] == "_chat.example.org"
    assert relay["max_mailbox_size"] == 1 << 30
    assert relay["delete_mails_after"] == 20
    assert relay["clean"] == {"purge": False}


def test_bad_pillar_fails_the_render_with_one_message_and_runs_no_state(salt_call, tmp_path):
    marker = tmp_path / "marker"
    sls = {"probe": f"{SHOW}\nmarker:\n  file.touch:\n    - name: {marker}\n"}
    pillar = {"chatmail": {"mail_domain": "chat", "fsync": "no", "max_mailbox_sise": "1G"}}
    done = salt_call("state.apply", "probe", sls=sls, pillar=pillar)
    assert done.returncode != 0
    (message,) = done.returned
    assert "3 problem(s) with the settings (pillar chatmail), nothing was changed" in message
    for key in ("mail_domain: 'chat'", "fsync: 'no'", "max_mailbox_sise: '1G'"):
        assert f"- {key}" in message
    assert "Traceback" not in message
    assert not marker.exists()


@pytest.fixture
def release(tmp_path):
    """Return a function that puts a module and a state of some release beside ours."""

    def put(word):
        for kind, text in (("modules", MODULE), ("states", STATE)):
            directory = tmp_path / "release" / f"_{kind}"
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "chatmail_probe.py").write_text(text.format(word=word))
        return str(tmp_path / "release")

    return put


def test_own_state_runs_on_a_minion_that_never_synced_and_after_an_upgrade(salt_call, release):
    """Salt syncs modules only before a highstate.

    So state.apply once failed on a new minion, and ran old code after an upgrade.
    """
    reload_state = "chatmail modules and states are of this release"

    def run(word, *arguments):
        roots = {"base": [str(release(word)), str(salt_call.roots)]}
        done = salt_call("state.apply", "own", *arguments, sls={"own": OWN_STATE}, file_roots=roots)
        return states(done)

    first = run("one", "test=True")
    assert first["own state"]["comment"] == "one one"
    assert first[reload_state]["changes"] == {}
    assert first[reload_state]["name"] == "they are loaded anew"
    assert run("one")[reload_state]["name"] == "they were current"
    upgraded = run("two")
    assert upgraded["own state"]["comment"] == "two two"
    assert upgraded[reload_state]["name"] == "they are loaded anew"
    assert run("two")[reload_state]["name"] == "they were current"


def test_modules_that_cannot_be_synced_are_named(salt_call):
    done = salt_call(
        "state.apply",
        "own",
        sls={"own": OWN_STATE},
        extmod_whitelist={"modules": ["none"], "states": ["none"]},
    )
    assert done.returncode != 0
    assert "_modules/chatmail_relay.py" in str(done.returned)
    assert "extmod_whitelist" in str(done.returned)


def test_module_returns_the_settings_as_templates_see_them(salt_modules, salt_opts):
    salt_opts["pillar"].update(GOOD)
    relay = salt_modules["chatmail_relay.settings"]()
    assert relay["max_mailbox_size_mb"] == 1024
    assert relay["tls_mode"] == "self_signed"
    assert relay["debian_release"] == 13


def test_bad_pillar_makes_the_module_raise_the_message(salt_modules):
    with pytest.raises(CommandExecutionError, match="mail_domain: missing"):
        salt_modules["chatmail_relay.settings"]()
