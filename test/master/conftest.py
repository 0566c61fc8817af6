"""Three relays and a real Salt master, for the tests in this folder.

    pytest test/master                             boots three relays of both releases
    pytest test/master --fleet one,two,three       uses boxes that `lab up` made, and keeps them
    pytest test/master --move old,new,peer         the same for the tests of a move

The master runs on this side of the lab's network. Each relay gets a second minion with a log at
debug level. So the tests also see what a minion writes there.
"""

import contextlib
import json
import os

import pytest
from relay.conftest import enter_client
from relay.machines import lab, lab_relay
from support.salt_master import Fleet

# The address of this host in the lab (test/lab/network.py).
THIS_SIDE = "198.51.100.200"
MINION = "/run/fleet-minion"
INVITING = json.dumps({"chatmail": {"registration": "invite"}})
# The options of `lab up`: mixed releases, one relay without a domain, one with invitations.
BOXES = (
    ("--os", "debian-13"),
    ("--os", "debian-12"),
    ("--os", "debian-13", "--domain", "ip"),
)


def pytest_addoption(parser):
    parser.addoption("--fleet", help="three running boxes, in place of fresh ones: one,two,three")
    parser.addoption("--move", help="three running boxes, in place of fresh ones: old,new,peer")


@pytest.fixture(scope="session")
def relays(request, tmp_path_factory):
    """Three converged relays by name. The last one has no domain and needs invitations."""
    given = request.config.option.fleet
    if given:
        enter_client()
        yield {name: lab_relay(name) for name in given.split(",")}
        return
    extra = tmp_path_factory.mktemp("pillar") / "extra.sls"
    extra.write_text(INVITING)
    boxes = [(*o, "--pillar", extra) if "ip" in o else o for o in BOXES]
    with booted({f"fleet{os.getpid()}-{n}": options for n, options in enumerate(boxes, 1)}) as all_:
        yield all_


@contextlib.contextmanager
def booted(boxes):
    """Boot boxes, and end them after the `with` block. boxes: {name: options of `lab up`}."""
    done = lab("check", check=False)
    if done.returncode != 0:
        pytest.skip(f"no lab on this machine: {done.stderr.strip()}")
    try:
        for name, options in boxes.items():
            lab("up", name, *options, capture_output=False)
        enter_client()
        yield {name: lab_relay(name) for name in boxes}
    finally:
        for name in boxes:
            lab("down", name, check=False)


@contextlib.contextmanager
def minion(relay, port):
    """Run a minion on a relay within a `with` block."""
    configuration = {
        "id": relay.name,
        "master": THIS_SIDE,
        "master_port": port,
        "root_dir": MINION,
        "pki_dir": f"{MINION}/pki",
        "acceptance_wait_time": 1,
        "auth_timeout": 5,
        "log_file": f"{MINION}/minion.log",
        "log_level_logfile": "debug",
        "beacons": {"chatmail_relay": [{"interval": 5}]},
    }
    relay.run(f"mkdir -p {MINION} && cat > {MINION}/minion", input=json.dumps(configuration))
    relay.run(f"systemd-run --unit=fleet-minion salt-minion --config-dir={MINION}")
    try:
        yield
    finally:
        relay.run(f"systemctl stop fleet-minion; rm -r {MINION}")


@pytest.fixture(scope="session")
def fleet(relays, tmp_path_factory):
    """The master of the relays, with their pillars. It has synced the runner."""
    with mastered(relays, tmp_path_factory.mktemp("master")) as master:
        yield master


@contextlib.contextmanager
def mastered(relays, directory, own=None):
    """Run a master with a minion on each relay within a `with` block.

    own: the pillar of the master itself.
    """
    top, pillar = {"master": ["own"]}, {"own": json.dumps(own or {})}
    for name, relay in relays.items():
        key = name.replace("-", "_")
        top[name] = [f"{key}_{part}" for part in ("lab", "extra", "relay")]
        for part in ("lab", "extra", "relay"):
            pillar[f"{key}_{part}"] = relay.run(f"cat /srv/pillar/{part}.sls").stdout
    pillar["top"] = json.dumps({"base": top})
    with (
        Fleet(directory, pillar, THIS_SIDE, list(relays)) as master,
        contextlib.ExitStack() as all_,
    ):
        for relay in relays.values():
            all_.enter_context(minion(relay, master.port))
        master.await_minions()
        assert master.run("saltutil.sync_all").returncode == 0
        names = ["-L", ",".join(relays)]
        for function in ("saltutil.sync_all", "saltutil.refresh_pillar", "mine.update"):
            assert master.salt(*names, function).returncode == 0
        yield master
