"""The orchestration chatmail.fleet.rollout: three empty machines of both releases become relays.

The tests are one story, in this order. The second relay's pillar is wrong at first, then the third
machine is off, then the master restarts in the middle.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from master.conftest import booted, mastered

# A converge of an empty machine takes minutes when the tests of all releases run.
pytestmark = pytest.mark.timeout(1800)

NAMES = [f"rollout{os.getpid()}-{n}" for n in (1, 2, 3)]
FIRST, SECOND, THIRD = NAMES
# Relays without a domain need no records in DNS, so they are healthy at once.
BOXES = {
    FIRST: ("--os", "debian-13", "--domain", "ip", "--no-converge"),
    SECOND: ("--os", "debian-12", "--domain", "ip", "--no-converge"),
    THIRD: ("--os", "debian-13", "--domain", "ip", "--no-converge"),
}
PLAN = {"chatmail_fleet": {"canaries": [FIRST], "waves": [[SECOND], [THIRD]], "at_once": 1}}
STEPS = [f"chatmail rollout {group}" for group in ("canaries", "wave 1", "wave 2")]


@pytest.fixture(scope="module")
def machines():
    """Three machines with Salt and a pillar, and nothing else."""
    with booted(BOXES) as found:
        yield found


@pytest.fixture(scope="module")
def master(machines, tmp_path_factory):
    with mastered(machines, tmp_path_factory.mktemp("rollout"), PLAN) as running:
        yield running


def has_settings(machine):
    """Tell whether a converge has begun on this machine."""
    return machine.run("test -e /etc/chatmail/relay.json", check=False).returncode == 0


def running_jobs(master, name):
    """Return the jobs that a minion is at work on, None when it does not answer."""
    done = master.salt(name, "saltutil.running")
    return json.loads(done.stdout).get(name) if done.returncode == 0 else None


def write_pillar(master, name, chatmail):
    """Give a machine further pillar."""
    path = master.configuration.parent / "pillar" / f"{name.replace('-', '_')}_extra.sls"
    path.write_text(json.dumps({"chatmail": chatmail}))


def test_dry_run_on_empty_machines_changes_nothing(master, machines):
    code, states = master.orchestrate("rollout", "test=True")
    assert code == 0, states
    assert [states[step]["result"] for step in STEPS] == [None, None, None]
    assert not any(has_settings(machine) for machine in machines.values())


def test_wrong_pillar_stops_the_rollout_and_leaves_the_others_untouched(master, machines):
    write_pillar(master, SECOND, {"max_mailbox_size": "many"})
    code, states = master.orchestrate("rollout")
    assert code == 1
    assert states[STEPS[0]]["result"] is True, states[STEPS[0]]["comment"]
    assert states[STEPS[1]]["result"] is False
    assert f"{SECOND}: dry run: " in states[STEPS[1]]["comment"]
    assert "max_mailbox_size" in states[STEPS[1]]["comment"]
    assert f"Untouched: {THIRD}." in states[STEPS[1]]["comment"]
    assert STEPS[2] not in states
    assert [has_settings(machines[name]) for name in NAMES] == [True, False, False]


def test_machine_that_is_off_stops_the_rollout_after_the_others(master, machines):
    write_pillar(master, SECOND, {})
    machines[THIRD].run("systemctl kill --signal=STOP fleet-minion")
    try:
        code, states = master.orchestrate("rollout")
    finally:
        machines[THIRD].run("systemctl kill --signal=CONT fleet-minion")
    assert code == 1
    assert [states[step]["result"] for step in STEPS] == [True, True, False]
    assert f"{THIRD}: dry run: silent" in states[STEPS[2]]["comment"]
    # The first one needed nothing.
    assert states[STEPS[0]]["changes"] == {}
    assert not has_settings(machines[THIRD])
    # What it was asked meanwhile is a dry run, which it does now.
    machines[THIRD].wait_until(lambda: running_jobs(master, THIRD) == [], 180)


def test_master_that_restarts_in_the_middle_breaks_nothing(master, machines):
    master.await_minions()
    program = Path(sys.executable).with_name("salt-run")
    command = [program, f"--config-dir={master.configuration}"]
    running = subprocess.Popen(
        [*command, "state.orchestrate", "chatmail.fleet.rollout", "--out=json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    reader = threading.Thread(target=running.communicate)
    reader.start()
    deadline = time.monotonic() + 300
    while not has_settings(machines[THIRD]):
        assert time.monotonic() < deadline, "the converge of the third machine did not begin"
        assert running.poll() is None
        time.sleep(0.5)
    master.restart()
    reader.join(600)
    assert running.poll() is not None, "the orchestration did not end"
    master.await_minions()
    code, states = master.orchestrate("rollout")
    assert [states[step]["comment"] for step in STEPS] == [f"1 relays: {name}" for name in NAMES]
    assert code == 0


def test_last_rollout_changes_nothing(master):
    code, states = master.orchestrate("rollout")
    assert code == 0
    assert [states[step]["changes"] for step in STEPS] == [{}, {}, {}]


def test_all_relays_are_healthy_and_reach_each_other(master):
    code, found = master.ask("ping", "wait=60")
    assert code == 0, found
    assert set(found) == set(NAMES)
    code, found = master.ask("status", "drift=False")
    assert [found[name]["health"] for name in NAMES] == [[], [], []], found
    assert code == 0
