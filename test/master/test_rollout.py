"""The orchestration chatmail.fleet.rollout: three empty machines of both releases become relays.

The tests are one story, in this order. The second relay's pillar is wrong at first, then the third
machine is off, then the master restarts in the middle.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from master.conftest import DNS, write_pillar

STEPS = [f"chatmail rollout {group}" for group in ("canaries", "wave 1", "wave 2")]


@pytest.fixture(scope="module")
def names(boxes):
    """The ids of the canary, of the first wave, and of the second wave."""
    return list(boxes)[:3]


def has_settings(machine):
    """Tell whether a converge has begun on this machine."""
    return machine.run("test -e /etc/chatmail/relay.json", check=False).returncode == 0


def running_jobs(master, name):
    """Return the jobs that a minion is at work on, None when it does not answer."""
    done = master.salt(name, "saltutil.running")
    return json.loads(done.stdout).get(name) if done.returncode == 0 else None


def test_dry_run_on_empty_machines_changes_nothing(fleet, machines):
    code, states = fleet.orchestrate("rollout", "test=True")
    assert code == 0, states
    assert [states[step]["result"] for step in STEPS] == [None, None, None]
    assert not any(has_settings(machine) for machine in machines.values())


def test_wrong_pillar_stops_the_rollout_and_leaves_the_others_untouched(fleet, machines, names):
    _first, second, third = names
    write_pillar(fleet, second, {"dns": DNS, "max_mailbox_size": "many"})
    code, states = fleet.orchestrate("rollout")
    assert code == 1
    assert states[STEPS[0]]["result"] is True, states[STEPS[0]]["comment"]
    assert states[STEPS[1]]["result"] is False
    assert f"{second}: dry run: " in states[STEPS[1]]["comment"]
    assert "max_mailbox_size" in states[STEPS[1]]["comment"]
    assert f"Untouched: {third}." in states[STEPS[1]]["comment"]
    assert STEPS[2] not in states
    assert [has_settings(machines[name]) for name in names] == [True, False, False]


def test_machine_that_is_off_stops_the_rollout_after_the_others(fleet, machines, names):
    _first, second, third = names
    write_pillar(fleet, second, {"dns": DNS})
    machines[third].run("systemctl kill --signal=STOP fleet-minion")
    try:
        code, states = fleet.orchestrate("rollout")
    finally:
        machines[third].run("systemctl kill --signal=CONT fleet-minion")
    assert code == 1
    assert [states[step]["result"] for step in STEPS] == [True, True, False]
    assert f"{third}: dry run: silent" in states[STEPS[2]]["comment"]
    # The first one needed nothing.
    assert states[STEPS[0]]["changes"] == {}
    assert not has_settings(machines[third])
    # What it was asked meanwhile is a dry run, which it does now.
    machines[third].wait_until(lambda: running_jobs(fleet, third) == [], 180)


def test_master_that_restarts_in_the_middle_breaks_nothing(fleet, machines, names):
    third = names[2]
    fleet.await_minions()
    program = Path(sys.executable).with_name("salt-run")
    command = [program, f"--config-dir={fleet.configuration}"]
    running = subprocess.Popen(
        [*command, "state.orchestrate", "chatmail.fleet.rollout", "--out=json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    reader = threading.Thread(target=running.communicate)
    reader.start()
    deadline = time.monotonic() + 300
    while not has_settings(machines[third]):
        assert time.monotonic() < deadline, "the converge of the third machine did not begin"
        assert running.poll() is None
        time.sleep(0.5)
    fleet.restart()
    reader.join(600)
    assert running.poll() is not None, "the orchestration did not end"
    fleet.await_minions()
    code, states = fleet.orchestrate("rollout")
    assert [states[step]["comment"] for step in STEPS] == [f"1 relays: {name}" for name in names]
    assert code == 0


def test_last_rollout_changes_nothing(fleet):
    code, states = fleet.orchestrate("rollout")
    assert code == 0
    assert [states[step]["changes"] for step in STEPS] == [{}, {}, {}]


def test_all_relays_are_healthy_and_reach_each_other(fleet, names):
    code, found = fleet.ask("ping", "wait=60")
    assert code == 0, found
    assert set(found) == set(names)
    code, found = fleet.ask("status", "drift=False")
    assert [found[name]["health"] for name in names] == [[], [], []], found
    assert code == 0
