"""The formula from git, a canary that runs a tag, and a secret of the pillar, by docs/fleet.md.

The tests are one story, in this order: two empty machines become relays of two releases.
"""

import contextlib
import json
import os
import shutil
import subprocess

import pytest
import yaml
from master.conftest import THIS_SIDE, booted, minion
from support.documents import example
from support.salt_master import REPOSITORY, Fleet

CANARY, OTHER = (f"gitfs{os.getpid()}-{n}" for n in (1, 2))
# Relays without a domain need no records in DNS, so they are healthy at once.
BOXES = {
    CANARY: ("--os", "debian-13", "--domain", "ip", "--no-converge"),
    OTHER: ("--os", "debian-12", "--domain", "ip", "--no-converge"),
}
TAG, RELEASE = "v2099.1", "2099.1"
OF_THE_TAG = '''

def of_the_tag():
    """Say where this module is from."""
    return "the tag"
'''
SECRET = "c2VjcmV0LW9mLXRzaWctYmVpbmctMzItYnl0ZXMhISE="


def plan(**canaries):
    return {"chatmail_fleet": {"canaries": [CANARY], "waves": [[OTHER]], "at_once": 1, **canaries}}


@pytest.fixture(scope="module")
def machines(request):
    """Two machines with Salt and a pillar, and nothing else."""
    with booted(BOXES, request) as found:
        yield found


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with this checkout in its branch `main`, and a later release in a tag."""
    work = tmp_path_factory.mktemp("work")

    def git(*arguments):
        author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", work, *author, *arguments], check=True, capture_output=True)

    git("init", "--initial-branch=main")
    for folder in ("chatmail", "_beacons", "_modules", "_states", "_runners", "_utils", "_output"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / folder, work / folder, ignore=ignored)
    git("add", "--all")
    git("commit", "--message=this checkout")
    settings, module = work / "chatmail/settings.py", work / "_modules/chatmail_relay.py"
    before = settings.read_text()
    settings.write_text(before.replace(f'FORMULA = "{release()}"', f'FORMULA = "{RELEASE}"'))
    assert settings.read_text() != before
    module.write_text(module.read_text() + OF_THE_TAG)
    git("commit", "--all", "--message=a later release")
    git("tag", TAG)
    git("reset", "--hard", "HEAD~")
    bare = tmp_path_factory.mktemp("git") / "chatmail.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", work, bare], check=True)
    return bare


@pytest.fixture(scope="module")
def master(machines, repository, tmp_path_factory):
    """A master that has the formula from git only, as the document configures it."""
    text = example("### The formula from git").replace("<repository>", f"file://{repository}")
    options = yaml.safe_load(text)
    assert options["gitfs_remotes"] == [{f"file://{repository}": [{"base": "main"}]}]
    own = tmp_path_factory.mktemp("salt")
    (own / "tsig.sls").write_text(example("`/srv/salt/tsig.sls`"))
    options["file_roots"] = {"base": [str(own)]}
    directory = tmp_path_factory.mktemp("gitfs")
    pillar, top = {"own": json.dumps(plan(canary_saltenv=TAG))}, {"master": ["own"]}
    for name, machine in machines.items():
        top[name] = [f"{name}_{part}" for part in ("lab", "relay")]
        for part in ("lab", "relay"):
            pillar[f"{name}_{part}"] = machine.run(f"cat /srv/pillar/{part}.sls").stdout
    pillar["top"] = json.dumps({"base": top})
    with (
        Fleet(directory, pillar, THIS_SIDE, list(machines), **options) as running,
        contextlib.ExitStack() as all_,
    ):
        for machine in machines.values():
            all_.enter_context(minion(machine, running.port, running.finger()))
        running.await_minions()
        assert running.run("saltutil.sync_all").returncode == 0
        names = ["-L", ",".join(machines)]
        for function in ("saltutil.sync_all", "saltutil.refresh_pillar"):
            assert running.salt("--timeout=120", *names, function).returncode == 0
        yield running


def release():
    """Return the release of this checkout."""
    return yaml.safe_load((REPOSITORY / "FORMULA").read_text())["version"]


def releases(master):
    """Return the release that converged each relay."""
    code, found = master.ask("versions")
    assert code == 0, found
    return {name: each["formula"] for name, each in found.items()}


def with_modules_of_the_tag(master):
    """Return the relays whose modules are those of the tag."""
    done = master.salt("-L", f"{CANARY},{OTHER}", "chatmail_relay.of_the_tag")
    return [name for name, answer in json.loads(done.stdout).items() if answer == "the tag"]


def test_canary_runs_the_tag_and_the_wave_runs_the_branch(master):
    code, states = master.orchestrate("rollout")
    assert code == 0, {name: state["comment"] for name, state in states.items()}
    assert releases(master) == {CANARY: RELEASE, OTHER: release()}
    assert with_modules_of_the_tag(master) == [CANARY]


def test_status_compares_each_relay_with_its_own_release(master):
    """Once, status compared a canary with base, and left the modules of base there."""
    code, found = master.ask("status")
    assert {name: each["drift"] for name, each in found.items()} == {CANARY: [], OTHER: []}
    assert code == 0, found
    assert with_modules_of_the_tag(master) == [CANARY]


def test_next_rollout_finds_nothing_to_do(master):
    code, states = master.orchestrate("rollout")
    assert code == 0, {name: state["comment"] for name, state in states.items()}
    assert [state["changes"] for state in states.values()] == [{}, {}]


def test_canary_does_not_go_back_to_an_older_release(master):
    """The older release does not know what the newer one has set up."""
    (master.configuration.parent / "pillar/own.sls").write_text(json.dumps(plan()))
    code, states = master.orchestrate("rollout")
    assert code == 1
    comment = states["chatmail rollout canaries"]["comment"]
    assert f"release {RELEASE} of the formula converged this machine" in comment
    assert f"Untouched: {OTHER}" in comment
    assert releases(master) == {CANARY: RELEASE, OTHER: release()}


def test_all_relays_run_the_tag_when_it_is_base(master, repository):
    path = master.configuration / "master"
    given = json.loads(path.read_text())
    given["gitfs_remotes"] = [{f"file://{repository}": [{"base": TAG}]}]
    path.write_text(json.dumps(given))
    master.restart()
    master.await_minions()
    code, states = master.orchestrate("rollout")
    assert code == 0, {name: state["comment"] for name, state in states.items()}
    assert releases(master) == dict.fromkeys([CANARY, OTHER], RELEASE)


@pytest.fixture
def encrypted(master, tmp_path):
    """Give the canary a secret in its pillar, encrypted by the commands of the document."""
    keys, pillar = master.configuration / "gpgkeys", master.configuration.parent / "pillar"
    (tmp_path / "tsig.key").write_text(f'key "relay" {{ secret "{SECRET}"; }};\n')
    commands = example("Salt's `gpg` renderer").replace("/etc/salt/gpgkeys", str(keys))
    subprocess.run(["bash", "-ec", commands], cwd=tmp_path, check=True, capture_output=True)
    head = example("which begins with the names of the renderers").partition("    -----BEGIN")[0]
    lines = (tmp_path / "tsig.key.asc").read_text().splitlines()
    (pillar / "secrets.sls").write_text(head + "".join(f"    {line}\n" for line in lines))
    top = json.loads((pillar / "top.sls").read_text())
    top["base"][CANARY].append("secrets")
    (pillar / "top.sls").write_text(json.dumps(top))
    yield
    # gpg started this agent, which would go on.
    subprocess.run(["gpgconf", "--homedir", keys, "--kill", "gpg-agent"], check=True)


def test_secret_of_the_pillar_is_in_the_file_and_in_no_result(master, machines, encrypted):
    applied = master.salt(CANARY, "state.apply", "tsig")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    [state] = json.loads(applied.stdout)[CANARY].values()
    assert state["changes"], state
    file = machines[CANARY].run("stat --format=%a:%U /etc/chatmail-tsig.key; cat /etc/*-tsig.key")
    assert file.stdout == f'600:root\nkey "relay" {{ secret "{SECRET}"; }};\n'
    assert master.salt(CANARY, "saltutil.refresh_pillar", "wait=True").returncode == 0
    shown = master.salt(CANARY, "pillar.items").stdout
    assert "tsig" in shown
    assert SECRET not in applied.stdout + applied.stderr + shown
    log = machines[CANARY].run("cat /run/fleet-minion/minion.log", check=False).stdout
    assert "tsig" in log
    assert SECRET not in log
