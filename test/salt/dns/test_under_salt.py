"""The DNS module and states as Salt runs them."""

import json
import os
import re
import shlex

import pytest
from chatmaild.dkim import key_files
from support import dnsservers, own_modules
from support.dnsservers import PRIMARY, both, world
from support.own_modules import ADDRESSES, DOMAIN

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="name servers on port 53 need root")

PILLAR = {
    "mail_domain": DOMAIN,
    "dns": {
        "addresses": ADDRESSES,
        "server": PRIMARY,
        "tsig_key_file": "/etc/chatmail/tsig.key",
    },
}
SLS = """
include: [chatmail.modules]
signing keys:
  chatmail_dkim.key_present: []
records of the relay:
  chatmail_dns.published:
    - require:
      - chatmail_dkim: signing keys
the world gets them:
  chatmail_dns.verified:
    - require:
      - chatmail_dns: records of the relay
"""


def applied(tmp_path, *arguments):
    done = own_modules.salt_call(
        tmp_path,
        "--out=json",
        "state.apply",
        "probe",
        *arguments,
        pillar=PILLAR,
        sls={"probe": SLS},
    )
    assert done.stdout, done.stderr
    states = json.loads(done.stdout)["local"]
    assert isinstance(states, dict), states
    return {state["__id__"]: state for state in states.values()}, done


@both
def test_one_state_apply_makes_keys_and_zone_complete(tmp_path, kind):
    own_modules.load(tmp_path, own_modules.settings(tmp_path))
    (tmp_path / "chatmail").mkdir()
    dnsservers.key_file(tmp_path / "chatmail")
    with world(tmp_path, kind):
        _states, dry = applied(tmp_path, "test=True")
        assert not key_files.DIRECTORY.exists(), dry.stdout
        first, done = applied(tmp_path)
        assert done.returncode == 0, done.stdout
        assert len(first["records of the relay"]["changes"]) == 16
        assert first["the world gets them"]["result"] is True
        assert "PRIVATE" not in done.stdout
        assert dnsservers.SECRET not in done.stdout + done.stderr
        second, done = applied(tmp_path)
        assert done.returncode == 0
        assert {name for name, state in second.items() if state["changes"]} == set()


def cli_examples():
    """Return the commands in the docstrings of both modules, at least one for each function."""
    found = []
    for name in ("chatmail_dkim", "chatmail_dns"):
        text = (own_modules.REPOSITORY / "_modules" / f"{name}.py").read_text()
        commands = re.findall(rf"^ +(salt-call {name}\..*)$", text, re.MULTILINE)
        assert len(commands) >= text.count("CLI Example:") > 5
        found += commands
    return found


def test_each_cli_example_runs_as_written(tmp_path):
    """The commands that make keys come first, then the one that publishes, then the others.

    In this order, none of them has a reason to fail.
    """
    own_modules.load(tmp_path, own_modules.settings(tmp_path))
    (tmp_path / "chatmail").mkdir()
    dnsservers.key_file(tmp_path / "chatmail")
    order = ("dkim.generate", "dkim.sign_with", "dns.publish")
    examples = sorted(cli_examples(), key=lambda each: not any(word in each for word in order))
    prepared = ["saltutil.sync_modules"], ["chatmail_dkim.generate", "r20261122"]
    with world(tmp_path):
        for arguments in [*prepared, *(shlex.split(example)[1:] for example in examples)]:
            done = own_modules.salt_call(tmp_path, *arguments, pillar=PILLAR)
            assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
            assert done.stdout.startswith(("local:", "{")), f"{arguments}: {done.stdout}"
            assert "PRIVATE" not in done.stdout
            if "chatmail_dkim.probe" in arguments:
                assert done.stdout.count("verified") == 2, done.stdout
