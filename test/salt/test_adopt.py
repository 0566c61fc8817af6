"""chatmail_adopt: what it asks the program, in which order, and the exit code of salt-call."""

import pytest
import yaml
from salt.exceptions import CommandExecutionError

SETTINGS = {"mail_domain": "chat.example.org", "clean": {"purge": False}}
READY = {"state": "ready", "problems": [], "pillar": {"mail_domain": "chat.example.org"}}


@pytest.fixture
def door(salt_modules, monkeypatch):
    """Return the module's functions, with the calls that they make and the answers they get."""
    namespace = salt_modules["chatmail_adopt.plan"].func.__globals__
    calls, answers, context = [], {}, {}

    def call(*arguments):
        calls.append(arguments)
        return answers.get(arguments[1])

    def apply(sls):
        calls.append(("state.apply", sls))
        return answers.get(sls, {"a state": {"result": True, "comment": ""}})

    low = [
        {"state": "chatmail_package", "fun": "together", "name": "x"},
        {"state": "chatmail_package", "fun": "installed", "name": "x", "pkgs": ["tcc", "coturn"]},
        {"state": "chatmail_package", "fun": "installed", "name": "y", "pkgs": ["postfix"]},
        {"state": "pkg", "fun": "removed", "name": "rsyslog"},
        {"state": "file", "fun": "managed", "name": "/etc/x"},
    ]
    given = {
        "chatmail_program.call": call,
        "chatmail_program.installed": lambda _part: answers.get("installed", True),
        "chatmail_relay.ports": lambda: [{"port": 25}],
        "chatmail_relay.settings": lambda: answers.get("settings", SETTINGS),
        "state.show_low_sls": lambda _sls: answers.get("low", low),
        "state.apply": apply,
    }
    monkeypatch.setitem(namespace, "__salt__", given)
    monkeypatch.setitem(namespace, "__context__", context)
    namespace["plan"].calls, namespace["plan"].answers = calls, answers
    namespace["plan"].context = context
    return namespace


def test_plan_shows_the_pillar_as_yaml(door):
    door["plan"].answers["plan"] = dict(READY)
    found = door["plan"]()
    assert yaml.safe_load(found["pillar"]) == {"chatmail": READY["pillar"]}
    assert door["plan"].calls == [("adopt", "plan", {"listeners": [{"port": 25}]}, {})]
    assert door["plan"].context == {}


def test_plan_of_a_refused_machine_has_exit_code_1(door):
    door["plan"].answers["plan"] = {**READY, "state": "refused", "problems": ["no"]}
    door["plan"]()
    assert door["plan"].context == {"retcode": 1}


def test_plan_after_start_has_no_pillar(door):
    door["plan"].answers["plan"] = {"state": "begun"}
    assert door["plan"]() == {"state": "begun"}


def test_start_hands_over_the_packages_of_the_states(door):
    door["start"]()
    arguments = {"listeners": [{"port": 25}], "packages": ["coturn", "postfix", "tcc"]}
    assert door["plan"].calls == [("adopt", "start", arguments, SETTINGS)]


def test_start_with_a_pillar_that_does_not_render_does_nothing(door):
    door["plan"].answers["low"] = ["Rendering SLS failed: mail_domain: missing"]
    with pytest.raises(CommandExecutionError, match="mail_domain: missing"):
        door["start"]()
    assert door["plan"].calls == []


def test_undo_removes_the_relay_before_it_puts_the_old_machine_back(door):
    door["undo"]()
    assert door["plan"].calls == [
        ("adopt", "check_undo", {}, {}),
        ("state.apply", "chatmail.clean"),
        ("state.apply", "chatmail.program"),
        ("adopt", "undo", {}, {}),
    ]


@pytest.mark.parametrize(
    "answer", [["Rendering failed"], {"a state": {"result": False, "comment": "it is stuck"}}]
)
def test_undo_stops_where_the_relay_cannot_be_removed(door, answer):
    door["plan"].answers["chatmail.clean"] = answer
    with pytest.raises(CommandExecutionError, match=r"chatmail\.clean failed: .*(stuck|Rendering)"):
        door["undo"]()
    assert door["plan"].calls[-1] == ("state.apply", "chatmail.clean")


def test_states_of_the_relay_install_what_start_looks_for(salt_call):
    """`start` knows some packages by name, so the states must install these."""
    from chatmaild.adopt import taking

    done = salt_call(
        "state.show_low_sls", "chatmail", pillar={"chatmail": {"mail_domain": "chat.example.org"}}
    )
    low = done.returned
    names = set()
    for state in low:
        if (state["state"], state["fun"]) == ("chatmail_package", "installed"):
            names |= set(state.get("pkgs") or [state["name"]])
    assert names > taking.LATER
    assert "dovecot-auth-lua" in names


def test_undo_with_a_pillar_that_deletes_the_mail_is_refused_with_nothing_changed(door):
    door["plan"].answers["settings"] = {**SETTINGS, "clean": {"purge": True}}
    with pytest.raises(CommandExecutionError, match="chatmail:clean:purge is true"):
        door["undo"]()
    assert door["plan"].calls == []


def test_undo_that_was_cut_off_without_the_program_installs_it_first(door):
    door["plan"].answers["installed"] = False
    door["undo"]()
    assert door["plan"].calls[:2] == [
        ("state.apply", "chatmail.program"),
        ("adopt", "check_undo", {}, {}),
    ]


def test_start_without_the_formula_names_the_way_that_works(door):
    """salt-ssh sends a function neither the formula nor the pillar."""
    door["plan"].answers["low"] = ["No matching sls found for 'chatmail' in env 'base'"]
    with pytest.raises(CommandExecutionError, match=r"salt-call on the machine.*--adopt"):
        door["start"]()
