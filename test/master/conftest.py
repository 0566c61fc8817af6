"""A real Salt master with a fleet of machines, for the tests in this folder.

    pytest test/master                              boots empty machines of both releases
    pytest test/master --fleet one,two,three,four   uses boxes that `lab up` made, and keeps them
    pytest test/master --releases debian-13,debian-13   the releases of the move, old and new

The tests are one story, in the order of STORY: a rollout makes three empty machines relays, the
relays do what relays of a fleet do, and then one of them moves to a fourth machine. A file that
runs alone makes its relays by a rollout, too.

The master runs on this side of the lab's network. Each machine gets a second minion with a log at
debug level. So the tests also see what a minion writes there.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from relay.conftest import enter_client, remove_orphans
from relay.machines import lab, lab_relay
from support.salt_master import Fleet

STORY = ("test_rollout.py", "test_beacon.py", "test_fleet.py", "test_move.py", "test_gitfs.py")
# The address of this host in the lab (test/lab/network.py).
THIS_SIDE = "198.51.100.200"
MINION = "/run/fleet-minion"
TSIG_KEY = Path("/run/chatmail-lab/knot/tsig.key")
DNS = {"server": "198.51.100.53", "tsig_key_file": "/etc/chatmail-tsig.key"}
# The pillar of each relay, beside that of the lab: two publish their records, one has no domain.
PILLARS = ({"dns": DNS}, {"dns": DNS}, {"registration": "invite"})
# What the master and the logs of minions may not have. A minion logs the programs that states run,
# and one of these replaces the secret of TURN by a variable.
SECRETS = re.compile(r"PRIVATE KEY|\{SHA512-CRYPT\}|static-auth-secret=[^;\s]")


def pytest_addoption(parser):
    parser.addoption("--fleet", help="four running boxes, in place of fresh ones, which are kept")
    parser.addoption(
        "--releases",
        default="debian-12,debian-13",
        help="the releases of the relay that moves, and of its new machine",
    )


def pytest_collection_modifyitems(items):
    """Put the tests into the order of the story. A converge of a busy machine takes minutes."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    ours.sort(key=lambda item: STORY.index(item.path.name))
    for item in ours:
        item.add_marker(pytest.mark.timeout(1800))
    items[:] = [item for item in items if item not in ours] + ours


@pytest.fixture(scope="session")
def boxes(request):
    """Four names of boxes, with the options by which `lab up` makes each."""
    old, new = request.config.option.releases.split(",")
    given = request.config.option.fleet
    names = given.split(",") if given else [f"fleet-{os.getpid()}-{n}" for n in (1, 2, 3, 4)]
    domains = [f"{name}.signed.example" for name in names]
    options = (
        ("--os", "debian-13", "--domain", domains[0]),
        ("--os", old, "--domain", domains[1]),
        ("--os", "debian-13", "--domain", "ip"),
        ("--os", new),
    )
    return dict(zip(names, options, strict=True))


@contextlib.contextmanager
def booted(boxes, request):
    """Boot empty machines, and end them after the `with` block; boxes: {name: options}."""
    if request.config.option.fleet:
        enter_client()
        yield {name: lab_relay(name) for name in boxes}
        return
    done = lab("check", check=False)
    if done.returncode != 0:
        pytest.skip(f"no lab on this machine: {done.stderr.strip()}")
    remove_orphans()
    try:
        for name, options in boxes.items():
            lab("up", name, *options, "--no-converge", capture_output=False)
        enter_client()
        yield {name: lab_relay(name) for name in boxes}
    finally:
        for name in boxes:
            lab("down", name, check=False)


@pytest.fixture(scope="session")
def machines(boxes, request):
    """Three machines by name, with Salt and nothing else at first: the relays of the fleet."""
    three = dict(list(boxes.items())[:3])
    with booted(three, request) as found:
        yield found


@contextlib.contextmanager
def minion(relay, port, finger):
    """Run a minion on a machine within a `with` block. The machine may publish DNS records.

    finger: the fingerprint of the only master that it accepts.
    """
    configuration = {
        "id": relay.name,
        "master": THIS_SIDE,
        "master_port": port,
        "master_finger": finger,
        "root_dir": MINION,
        "pki_dir": f"{MINION}/pki",
        "acceptance_wait_time": 1,
        "auth_timeout": 5,
        "log_file": f"{MINION}/minion.log",
        "log_level_logfile": "debug",
        "beacons": {"chatmail_relay": [{"interval": 5}]},
    }
    relay.run(f"umask 077 && cat > {DNS['tsig_key_file']}", input=TSIG_KEY.read_text())
    relay.run(f"mkdir -p {MINION} && cat > {MINION}/minion", input=json.dumps(configuration))
    relay.run(f"systemd-run --unit=fleet-minion salt-minion --config-dir={MINION}")
    try:
        yield
    finally:
        relay.run(f"systemctl stop fleet-minion; rm -r {MINION}")


@pytest.fixture(scope="session")
def fleet(boxes, machines, tmp_path_factory):
    """The master of the machines, with their pillars. It has synced the runner.

    The fourth machine, which is no minion yet, has the pillar of the second one.
    """
    first, second, third, fourth = boxes
    plan = {"canaries": [first], "waves": [[second], [third]], "at_once": 1}
    top = {"master": ["own"], **{name: pillar_files(name) for name in machines}}
    pillar = {"own": json.dumps({"chatmail_fleet": plan})}
    for (name, relay), own in zip(machines.items(), PILLARS, strict=True):
        of_lab, of_domain, of_relay, minions_own = top[name]
        pillar[of_lab] = relay.run("cat /srv/pillar/lab.sls").stdout
        pillar[of_domain] = relay.run("cat /srv/pillar/relay.sls").stdout
        pillar[of_relay] = json.dumps({"chatmail": own})
        pillar[minions_own] = "{}"
    top[fourth] = top[second][:3]
    pillar["top"] = json.dumps({"base": top})
    with (
        Fleet(tmp_path_factory.mktemp("master"), pillar, THIS_SIDE, list(machines)) as master,
        contextlib.ExitStack() as all_,
    ):
        all_.enter_context(listening(master))
        for relay in machines.values():
            all_.enter_context(minion(relay, master.port, master.finger()))
        master.await_minions()
        assert master.run("saltutil.sync_all").returncode == 0
        names = ["-L", ",".join(machines)]
        # A busy machine takes long for the first modules.
        for function in ("saltutil.sync_all", "saltutil.refresh_pillar", "mine.update"):
            assert master.salt("--timeout=120", *names, function).returncode == 0
        yield master


def pillar_files(name):
    """Return the names of a minion's pillar files: of lab, domain, relay, and minion."""
    return [f"{name.replace('-', '_')}_{part}" for part in ("lab", "domain", "relay", "minion")]


def write_pillar(master, name, relay=None, minion=None):
    """Write pillar of a minion: `chatmail` of its relay, or all that is only the minion's."""
    *_, of_relay, of_minion = pillar_files(name)
    for file, value in ((of_relay, relay and {"chatmail": relay}), (of_minion, minion)):
        if value is not None:
            path = master.configuration.parent / "pillar" / f"{file}.sls"
            path.write_text(json.dumps(value))


@pytest.fixture(scope="session")
def relays(fleet, machines):
    """The three machines after a rollout. After the tests of a rollout, it changes nothing."""
    plan = {"canaries": [], "waves": [list(machines)], "at_once": 3}
    code, states = fleet.orchestrate("rollout", pillar={"chatmail_fleet": plan})
    assert code == 0, states
    for machine in machines.values():
        # The tests also ask the machine's own minion, which the rollout did not use.
        machine.run("salt-call --local saltutil.sync_all")
    return machines


def kept_by(master):
    """Return the directory of a master. The file `events` there has all events."""
    return master.configuration.parent


@contextlib.contextmanager
def listening(master):
    """Write all events of the master into a file within a `with` block."""
    program = Path(sys.executable).with_name("salt-run")
    with open(kept_by(master) / "events", "w") as output:
        listener = subprocess.Popen(
            [program, f"--config-dir={master.configuration}", "state.event", "pretty=False"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        listener.terminate()
        listener.wait(30)


def events_of(master):
    """Return the text of all events since the master began."""
    return (kept_by(master) / "events").read_text()


def everything_on(master, machines):
    """Return all that the master stores and logs, its events, and the logs of the minions."""
    kept = [path for path in kept_by(master).rglob("*") if path.is_file()]
    ours = [path for path in kept if not {"roots", "pillar", "extmods", "pki"} & set(path.parts)]
    texts = [path.read_bytes().decode("latin-1") for path in ours]
    texts += [machine.run(f"cat {MINION}/minion.log").stdout for machine in machines]
    return "\n".join(texts)


def check_traces(master, machines, function):
    """Fail when the master or a minion kept a secret or an address.

    function: one that the tests called, so that it must be there. The addresses of a relay end in
    its domain. Nothing of the lab's pillar has an address.
    """
    text = everything_on(master, machines)
    assert function in events_of(master)
    assert function in text
    domains = "|".join(re.escape(machine.domain) for machine in machines)
    address = re.compile(rf"[A-Za-z0-9._+-]+@\[?(?:{domains})")
    assert sorted(set(address.findall(text))) == []
    assert sorted(set(SECRETS.findall(text))) == []
