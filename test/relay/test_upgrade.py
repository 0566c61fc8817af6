"""From the newest released version of the formula to this one under load, and back.

docs/upgrade.md has the commands. The machine first gets the released formula from the history of
this repository, and then the formula of this checkout.
"""

import contextlib
import importlib.util
import json
import subprocess
import time
from typing import NamedTuple

import pytest
from relay.client import new_account
from relay.machines import LAB, lab
from support import releases
from support.converging import not_as_expected, states
from support.devices import send
from support.mail_stream import Waiting
from support.upgrading import Stream, Users, commands, runs

RELEASED = "/srv/released"
LAB_PILLAR = "/srv/pillar/lab.sls"
IDLE_CLIENTS = 5
STATES = releases.ROOT / "chatmail"
PROGRAM = STATES / "program" / "files"
PREDICTED, CONVERGE, HEALTH = commands("upgrade.md", "A newer release of the formula")
CLEAN, CONVERGE_OLDER = commands("upgrade.md", "Back to an older release")
pytestmark = pytest.mark.timeout(900, func_only=True)


class Formulas:
    """The two formulas of a machine, with the pillar that each of them takes."""

    def __init__(self, box, released, directory):
        self.box, self.name = box, released.name
        self.pillar = box.run(["cat", LAB_PILLAR]).stdout
        self._known = self._place(released, directory)

    def _place(self, released, directory):
        """Put the released formula on the machine. Return the settings that it knows."""
        archive = directory / "released.tar"
        releases.archive(released, archive)
        subprocess.run(["tar", "-xf", archive, "-C", directory], check=True)
        self.box.run(["mkdir", "-p", RELEASED])
        with archive.open("rb") as stream:
            unpack = [LAB, "run", self.box.name, "--", "tar", "-x", "-C", RELEASED]
            subprocess.run(unpack, stdin=stream, check=True)
        path = directory / "chatmail" / "settings.py"
        spec = importlib.util.spec_from_file_location("released_settings", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return {key.name.partition(":")[0] for key in module.KEYS}

    def released(self, command):
        """Run a command of the document with the released formula."""
        given = json.loads(self.pillar)["chatmail"]
        known = {key: value for key, value in given.items() if key in self._known}
        self._give({"chatmail": known})
        return self.box.run(f"{command} --file-root={RELEASED} --out=json", check=False)

    def present(self, command):
        """Run a command of the document with the formula of this checkout."""
        self._give(json.loads(self.pillar))
        return self.box.run(f"{command} --out=json", check=False)

    def _give(self, pillar):
        """Write the pillar. Also forget Salt's list of files, which it keeps for 20 seconds."""
        forget = "rm -rf /var/cache/salt/minion/file_lists"
        self.box.run(f"cat > {LAB_PILLAR} && {forget}", input=json.dumps(pillar))


def failures(run):
    """Return the comments of the states that failed in a run."""
    return [each["comment"] for each in states(run).values() if each["result"] is False]


@pytest.fixture(scope="module")
def formulas(idle_box, tmp_path_factory):
    """A machine that the released formula has converged.

    It starts without Debian's packages: release 2026.11 needs the services that they start.
    """
    found = Formulas(idle_box, releases.newest(), tmp_path_factory.mktemp("released"))
    assert failures(found.released(CONVERGE)) == []
    return found


@pytest.fixture(scope="module")
def users(formulas):
    return Users(formulas.box)


class Upgrade(NamedTuple):
    """What an upgrade did."""

    predicted: subprocess.CompletedProcess
    run: subprocess.CompletedProcess
    connections: list  # how often each idle client connected
    told: list  # whether each idle client heard of a message afterwards
    stream: Stream


@pytest.fixture(scope="module")
def upgrade(formulas, users):
    """The upgrade under load: clients in IDLE, and a message a second."""
    box = formulas.box
    idle, ends = [new_account(box) for _ in range(IDLE_CLIENTS)], [new_account(box) for _ in "ab"]
    before, predicted = runs(box), formulas.present(PREDICTED)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Waiting(box, each)) for each in idle]
        stream = stack.enter_context(Stream(box, *ends))
        box.wait_until(lambda: stream.sent and all(each.connected for each in clients))
        began = time.monotonic()
        run = formulas.present(CONVERGE)
        seconds, sent = time.monotonic() - began, len(stream.sent)
        box.wait_until(lambda: len(stream.sent) > sent, seconds=60)
        for client in clients:
            send(box, users.addresses[0], client.account)
        with contextlib.suppress(pytest.fail.Exception):
            box.wait_until(lambda: all(each.seen for each in clients))
        connections = [len(each.connected) for each in clients]
        told = [bool(each.seen) for each in clients]
    after = runs(box)
    print(f"\nfrom {formulas.name} in {seconds:.0f} s: {len(stream.sent)} messages accepted,")
    print(f"{len(stream.unsure)} not; connections of each idle client: {connections}; started:")
    print(*sorted(unit for unit, run_id in after.items() if before.get(unit) != run_id))
    return Upgrade(predicted, run, connections, told, stream)


def test_upgrade_succeeds_and_so_does_the_dry_run(upgrade):
    assert failures(upgrade.run) == failures(upgrade.predicted) == []


def test_message_that_was_accepted_during_the_upgrade_arrives_once(upgrade):
    assert len(upgrade.stream.sent) >= 2
    upgrade.stream.check()


def test_idle_client_loses_its_connection_at_most_once(upgrade):
    assert max(upgrade.connections) <= 2


def test_idle_client_hears_of_a_message_after_the_upgrade(upgrade):
    assert upgrade.told == [True] * IDLE_CLIENTS


def test_addresses_mail_tokens_and_keys_are_kept(users, upgrade):
    users.check()


def test_second_converge_changes_nothing(formulas, upgrade):
    assert not_as_expected(states(formulas.present(CONVERGE))) == {}


def test_unit_or_program_that_only_the_older_release_has_is_gone(formulas, upgrade):
    """Release 2026.11 had chatmail-dict, and the package in other files."""
    units = formulas.box.run("cd /etc/systemd/system && ls -d chatmail-*").stdout.split()
    ours = [each.name.removesuffix(".jinja") for each in STATES.rglob("files/chatmail-*.*")]
    assert {each for each in units if not each.endswith(".d")} <= set(ours)
    find = "cd /usr/local/lib/chatmail && find . -name '*.py'"
    program = {str(each.relative_to(PROGRAM)) for each in PROGRAM.rglob("*.py")}
    assert {each.removeprefix("./") for each in formulas.box.run(find).stdout.split()} == program
    assert formulas.box.run("ls -d /var/lib/chatmail-dict", check=False).stdout == ""
    failed = "systemctl list-units --all --plain --no-legend --state=failed,not-found 'chatmail*'"
    assert formulas.box.run(failed).stdout == ""


def test_relay_is_healthy(formulas, upgrade):
    # This also puts the DKIM records into the lab's DNS, as an operator would.
    lab("converge", formulas.box.name)
    done = formulas.box.run(HEALTH, check=False)
    assert done.returncode == 0, done.stdout


def test_formula_older_than_that_of_the_machine_is_refused_before_anything_changes(
    formulas, upgrade
):
    """Salt said that all is well, while units of the newer release went on."""
    box, stored = formulas.box, "/etc/chatmail/relay.json"
    before = box.run(["cat", stored]).stdout
    settings = json.loads(before)
    newer = {**settings, "formula": "2999.01"}
    places = "/etc /usr/local /var/cache/salt/minion/extmods"
    watched = f"find {places} -newer /run/before -type f -not -name '*.pyc'"
    try:
        box.run(f"cat > {stored} && touch /run/before", input=json.dumps(newer))
        for command in (PREDICTED, CONVERGE, CLEAN):
            done = formulas.present(command)
            assert done.returncode != 0
            (message,) = json.loads(done.stdout)["local"]
            assert "release 2999.01 of the formula converged this machine" in message
            assert f"this is {settings['formula']}, which is older; nothing was changed" in message
            assert "chatmail.clean with 2999.01" in message
        assert box.run(watched).stdout == ""
    finally:
        box.run(f"cat > {stored}", input=before)
    assert not_as_expected(states(formulas.present(CONVERGE))) == {}


def test_older_release_takes_over_after_clean_with_all_addresses(formulas, users, upgrade):
    """Each release reads what the one after it has stored."""
    assert failures(formulas.present(CLEAN)) == []
    units = formulas.box.run("ls -d /etc/systemd/system/chatmail*", check=False)
    assert units.stdout == ""
    assert failures(formulas.released(CONVERGE_OLDER)) == []
    users.check()
    assert not_as_expected(states(formulas.released(CONVERGE_OLDER))) == {}
