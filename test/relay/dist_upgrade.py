"""A relay whose machine is upgraded from Debian 12 to 13 keeps addresses, mail and keys.

`make upgrade` runs this file, with the commands of docs/upgrade.md. `make test` does not, because
it takes some minutes. The machine is a bare one, on which bootstrap.sh installs Salt, before the
upgrade and after it: Salt's Python environment does not survive the upgrade.
"""

import subprocess

import pytest
from lab.host import CACHE
from relay.machines import LAB
from support.converging import APPLY, not_as_expected, states
from support.upgrading import Users, commands

UPGRADE = commands("upgrade.md", "Debian 12 to 13")
BOOTSTRAP = "PIP_NO_INDEX=1 PIP_FIND_LINKS='/srv/wheels /srv/wheels-13' /srv/checkout/bootstrap.sh"
# The lab has no way to the iroh relay's program, and a box has the load of the whole host.
LAB_PILLAR = """ext_pillar:
  - cmd_yaml: "echo '{chatmail: {iroh_relay: \\"\\", max_load_1m: 1000}}'"
"""


def bring_wheels(box):
    """Give the box the wheels of Salt for Debian 13, in place of a package index."""
    newest = max(CACHE.glob("debian-13-salt-*-wheels"), key=lambda path: path.stat().st_mtime)
    box.run(["mkdir", "-p", "/srv/wheels-13"])
    with subprocess.Popen(["tar", "-C", newest, "-c", "."], stdout=subprocess.PIPE) as packed:
        unpack = [LAB, "run", box.name, "--", "tar", "-x", "-C", "/srv/wheels-13"]
        subprocess.run(unpack, stdin=packed.stdout, check=True)


def bootstrap(box):
    done = box.run(f"{BOOTSTRAP} {box.domain}", check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]


def version(box):
    return box.run("sed -n s/^VERSION_ID=//p /etc/os-release").stdout.strip().strip('"')


@pytest.mark.timeout(3600, func_only=True)
def test_machine_is_upgraded_from_debian_12_to_13(bare_box):
    box = bare_box
    if (found := version(box)) != "12":
        pytest.skip(f"begins on Debian 12, not on {found}: --os debian-12")
    box.run("mkdir -p /etc/salt/minion.d && cat > /etc/salt/minion.d/lab.conf", input=LAB_PILLAR)
    bootstrap(box)
    users = Users(box)

    for line in UPGRADE:
        print(f"\n{line}")
        done = box.run(line, check=False)
        print(done.stdout[-3000:])
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert version(box) == "13"

    bring_wheels(box)
    bootstrap(box)
    users.check()
    assert not_as_expected(states(box.run(f"{APPLY} --out=json"))) == {}
    box.reboot()
    users.check()
    assert box.run("systemctl --failed --no-legend").stdout == ""
    assert not_as_expected(states(box.run(f"{APPLY} --out=json"))) == {}
