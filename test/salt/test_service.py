"""chatmail_service: units of systemd, looked at once."""

import pytest
from salt.state import State
from support.state_module import load


class Systemd(dict):
    """The functions of Salt that change one unit. `calls` has their names, in order."""

    def __init__(self, now, boot, starts=True):
        self.now, self.boot, self.starts, self.calls = now, boot, starts, []
        self.questions = []

    def __missing__(self, function):
        if function == "cmd.run_all":
            return self.show
        return lambda name: self.change(function.removeprefix("service."))

    def show(self, command, python_shell):
        assert command[:2] == ["systemctl", "show"]
        self.questions.append(command[3:])
        text = f"ActiveState={self.now}\nUnitFileState={self.boot}"
        return {"retcode": 0, "stdout": "\n\n".join(text for _ in command[3:]), "stderr": ""}

    def change(self, verb):
        self.calls.append(verb)
        if verb in ("enable", "disable"):
            self.boot = f"{verb}d"
        elif verb == "stop":
            self.now = "inactive"
        else:
            self.now = "active" if self.starts else "failed"
        return True


@pytest.mark.parametrize(
    ("function", "now", "boot", "calls"),
    [
        ("running", "active", "enabled", []),
        ("running", "active", "static", []),
        ("running", "inactive", "disabled", ["enable", "start"]),
        ("running", "failed", "enabled", ["start"]),
        ("running", "active", "disabled", ["enable"]),
        ("dead", "inactive", "", []),
        ("dead", "failed", "disabled", []),
        ("dead", "active", "enabled", ["stop", "disable"]),
        # The unit has failed and waits for its next start.
        ("dead", "activating", "static", ["stop"]),
        ("dead", "inactive", "enabled", ["disable"]),
        ("reloaded", "active", "enabled", []),
        ("reloaded", "inactive", "enabled", []),
    ],
)
def test_unit_is_changed_only_where_needed_and_as_the_dry_run_says(function, now, boot, calls):
    systemd = Systemd(now, boot)
    predicted = getattr(load("chatmail_service", systemd, test=True), function)("x")
    assert systemd.calls == []
    module = load("chatmail_service", systemd)
    done = getattr(module, function)("x")
    assert systemd.calls == calls
    assert done["result"] is True
    assert predicted["changes"] == done["changes"]
    assert predicted["result"] is (None if calls else True)
    # A run keeps what it has seen, so this is another one.
    again = load("chatmail_service", systemd)
    assert getattr(again, function)("x")["changes"] == {}


@pytest.mark.parametrize(
    ("arguments", "now", "calls"),
    [
        ({"sfun": "running"}, "active", ["restart"]),
        ({"sfun": "running", "reload": True}, "active", ["reload"]),
        ({"sfun": "reloaded"}, "active", ["reload"]),
        ({"sfun": "reloaded"}, "inactive", []),
        ({"sfun": "dead"}, "active", []),
        ({"sfun": "running"}, "failed", ["start"]),
    ],
)
def test_change_of_a_watched_state_restarts_or_reloads(arguments, now, calls):
    systemd = Systemd(now, "enabled")
    predicted = load("chatmail_service", systemd, test=True).mod_watch("x", **arguments)
    assert systemd.calls == []
    done = load("chatmail_service", systemd).mod_watch("x", **arguments)
    assert systemd.calls == calls
    assert predicted["changes"] == done["changes"]
    assert bool(done["changes"]) == bool(calls)


def test_unit_that_does_not_run_after_its_start_fails_the_state():
    """Systemd reports no error when a condition of the unit keeps it from starting."""
    ret = load("chatmail_service", Systemd("inactive", "enabled", starts=False)).running("x")
    assert ret["result"] is False
    assert "journalctl -u x" in ret["comment"]
    assert "now" not in ret["changes"]


def test_unit_that_cannot_start_fails_the_state_also_when_a_watched_state_changed():
    """After a failed `running`, Salt calls `mod_watch` and takes its result."""
    systemd = Systemd("failed", "enabled", starts=False)
    ret = load("chatmail_service", systemd).mod_watch("x", sfun="running")
    assert ret["result"] is False
    assert "journalctl -u x" in ret["comment"]


def test_machine_without_systemd_fails_the_state_and_says_so():
    salt = {"cmd.run_all": lambda *_a, **_k: {"retcode": 1, "stdout": "", "stderr": "no bus"}}
    ret = load("chatmail_service", salt).dead("x")
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "no bus" in ret["comment"]


LOW = [{"state": "chatmail_service", "name": each} for each in ("a", "b.timer", "a")]
UNCHANGED = {"file": {"changes": {}}}
CHANGED = {"file": {"changes": {"diff": "new"}}}


def test_systemd_is_asked_once_about_all_units_of_the_run():
    systemd = Systemd("active", "enabled")
    module = load("chatmail_service", systemd, __lowstate__=LOW, __running__=UNCHANGED)
    module.running("a")
    module.running("b.timer")
    assert systemd.questions == [["a", "b.timer"]]


def test_units_are_looked_at_anew_when_a_state_has_changed_something():
    """A package that is installed starts its daemon, for example."""
    systemd = Systemd("inactive", "static")
    module = load("chatmail_service", systemd, __lowstate__=LOW, __running__=UNCHANGED)
    assert module.dead("b.timer")["comment"] == "b.timer does not run."
    systemd.now, module.__running__ = "active", CHANGED
    assert module.running("a")["changes"] == {}
    assert systemd.calls == []
    assert systemd.questions[1:] == [["a"]]


@pytest.mark.parametrize("starts", [True, False])
def test_unit_that_watches_a_changed_state_is_started_once(salt_opts, starts, tmp_path):
    """Once, Salt let `mod_watch` start a unit again whose start had just failed."""
    systemd = Systemd("inactive", "enabled", starts=starts)
    run = State(salt_opts)
    for function in ("cmd.run_all", "service.start", "service.restart"):
        run.functions[function] = systemd[function]
    watched = {"file": ["managed", {"name": str(tmp_path / "new")}, {"contents": "x"}]}
    unit = {"chatmail_service": ["running", {"name": "x"}, {"watch": [{"file": "configuration"}]}]}
    report = run.call_high({"configuration": watched, "unit": unit})
    assert [bool(state["changes"]) for state in report.values()] == [True, starts]
    assert [state["result"] for state in report.values()] == [True, starts]
    assert systemd.calls == ["start"]


def test_dry_run_goes_on_from_what_it_has_predicted():
    """Once, the reload of a daemon that the same run would start was not predicted."""
    systemd = Systemd("inactive", "")
    started = {"name": "x", "changes": {"now": {"old": "inactive", "new": "active"}}}
    running = {
        "chatmail_service_|-a_|-x_|-running": started,
        # Another kind of state with the same name, and another unit.
        "file_|-b_|-x_|-managed": {"name": "x", "changes": {"mode": "0644"}},
        "chatmail_service_|-c_|-y_|-dead": {"name": "y", "changes": {"now": {"new": "inactive"}}},
    }
    dry = load("chatmail_service", systemd, test=True, __running__=running)
    assert dry.running("x")["changes"] == {}
    assert dry.mod_watch("x", sfun="reloaded")["changes"]["now"]["new"] == "active, after a reload"
    # A real run asks systemd.
    real = load("chatmail_service", systemd, __running__=running)
    assert real.mod_watch("x", sfun="reloaded")["changes"] == {}
    reload = dry.mod_watch("x", sfun="reloaded")
    running["chatmail_service_|-d_|-x_|-reloaded"] = {"name": "x", "changes": reload["changes"]}
    assert dry.running("x")["changes"] == {}
    assert dry.dead("x")["changes"]["now"] == {"old": "active", "new": "inactive"}


def test_unit_whose_start_had_begun_with_old_files_is_started_with_the_new_ones():
    """The first start only waits for the old one, which fails. So Salt has to call `mod_watch`."""
    ret = load("chatmail_service", Systemd("activating", "enabled", starts=False)).running("x")
    assert (ret["result"], ret["skip_watch"]) == (False, False)
