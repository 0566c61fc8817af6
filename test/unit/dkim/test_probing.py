"""The probe of the keys that sign, and the commands of the Salt module, as a process too."""

import json
import os
import subprocess
import sys

import pytest
from chatmaild.common.errors import OperatorError
from chatmaild.dkim import commands, key_files, key_records, signing_state
from support import relay_keys, running_filter
from support.relay_keys import DOMAIN

SETTINGS = {"mail_domain": DOMAIN, "dkim_required": True, "dkim": {"retire_after": 14}}


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    relay_keys.keep_in(tmp_path / "dkim", monkeypatch)
    return tmp_path / "dkim"


@pytest.fixture
def published():
    """An RSA and an Ed25519 key that sign, and the TXT values that DNS has for them."""
    selectors = relay_keys.make()
    records = key_records.list_records(SETTINGS)
    return selectors, {record["name"]: [record["value"]] for record in records}


def probe(txt):
    return commands.COMMANDS["probe"](SETTINGS, txt=txt)


def test_probe_verifies_each_key_whose_record_is_in_dns(published):
    (rsa, ed25519), txt = published
    assert probe(txt) == {rsa: "verified", ed25519: "verified"}


def test_probe_says_which_key_other_relays_would_refuse(published):
    (rsa, ed25519), txt = published
    names = {selector: key_records.name_record(selector, DOMAIN) for selector in (rsa, ed25519)}
    refused = "no valid DKIM signature"
    without = {names[ed25519]: txt[names[ed25519]]}
    assert probe(without) == {rsa: refused, ed25519: "verified"}
    exchanged = {names[rsa]: txt[names[ed25519]], names[ed25519]: txt[names[rsa]]}
    assert probe(exchanged) == {rsa: refused, ed25519: refused}


@pytest.mark.parametrize("fault", ["missing", "no JSON", "not a key"])
def test_probe_says_when_the_filter_could_not_sign(directory, published, fault):
    (rsa, _), txt = published
    if fault == "missing":
        (directory / f"{rsa}.pem").unlink()
    elif fault == "no JSON":
        (directory / "signing.json").write_text("{")
    else:
        (directory / f"{rsa}.pem").write_text("nothing")
    with pytest.raises(OperatorError, match="the filter could not sign: "):
        probe(txt)


def test_commands_answer_about_the_keys_on_this_machine(directory):
    ask = commands.COMMANDS
    selector = ask["new_selector"](SETTINGS, algorithm="ed25519-sha256")
    made = ask["generate"](SETTINGS, selector=selector, algorithm="ed25519-sha256")
    assert made["path"] == str(directory / f"{selector}.pem")
    assert ask["sign_with"](SETTINGS, selectors=[selector]) == [selector]
    assert ask["protect"](SETTINGS, selector=selector).startswith("0640 root:")
    assert ask["list"](SETTINGS) == signing_state.list_keys()
    assert ask["txt"](SETTINGS, selector=selector)["name"] == f"{selector}._domainkey.{DOMAIN}."
    assert ask["records"](SETTINGS) == key_records.list_records(SETTINGS)
    assert ask["withdrawn"](SETTINGS) == []


def test_commands_are_a_program_that_reads_a_request():
    """The Salt module starts it. Nothing of this request touches a key."""
    request = {"do": "new_selector", "settings": SETTINGS, "arguments": {"algorithm": "rsa"}}
    ended = subprocess.run(
        [sys.executable, "-m", "chatmaild.dkim.commands"],
        env=os.environ | {"PYTHONPATH": str(running_filter.SERVICES)},
        input=json.dumps(request), capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert json.loads(ended.stdout) == {
        "error": f"algorithm 'rsa' is not known: use one of {', '.join(key_files.ALGORITHMS)}",
        "invalid": True,
    }
