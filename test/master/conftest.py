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
    done = lab("check", check=False)
    if done.returncode != 0:
        pytest.skip(f"no lab on this machine: {done.stderr.strip()}")
    given = request.config.option.fleet
    names = given.split(",") if given else [f"fleet{os.getpid()}-{n}" for n in (1, 2, 3)]
    extra = tmp_path_factory.mktemp("pillar") / "extra.sls"
    extra.write_text(INVITING)
    try:
        for name, options in [] if given else zip(names, BOXES, strict=True):
            more = ("--pillar", extra) if "ip" in options else ()
            lab("up", name, *options, *more, capture_output=False)
        enter_client()
        yield {name: lab_relay(name) for name in names}
    finally:
        for name in [] if given else names:
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
    top, pillar = {}, {}
    for name, relay in relays.items():
        key = name.replace("-", "_")
        top[name] = [f"{key}_{part}" for part in ("lab", "extra", "relay")]
        for part in ("lab", "extra", "relay"):
            pillar[f"{key}_{part}"] = relay.run(f"cat /srv/pillar/{part}.sls").stdout
    pillar["top"] = json.dumps({"base": top})
    directory = tmp_path_factory.mktemp("master")
    with (
        Fleet(directory, pillar, THIS_SIDE, list(relays)) as master,
        contextlib.ExitStack() as all_,
    ):
        for relay in relays.values():
            all_.enter_context(minion(relay, master.port))
        master.await_minions()
        assert master.run("saltutil.sync_all").returncode == 0
        names = ["-L", ",".join(relays)]
        for function in ("saltutil.sync_modules", "saltutil.refresh_pillar", "mine.update"):
            assert master.salt(*names, function).returncode == 0
        yield master
