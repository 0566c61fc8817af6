"""The DKIM module and states: the first keys, and rotation against real name servers."""

import contextlib
import datetime
import json
import os
import stat

import pytest
from chatmaild.dkim import signing, signing_state
from chatmaild.rotation import rotating
from salt.exceptions import CommandExecutionError
from support import dnsservers, own_modules
from support.own_modules import DOMAIN
from support.relay_keys import sign_with_key

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="keys of root need root")


@pytest.fixture
def own(tmp_path):
    return own_modules.load(tmp_path, own_modules.settings(tmp_path))


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "chatmail" / "dkim"


@contextlib.contextmanager
def name_servers(tmp_path, own, secondary=False):
    """Run the root, a resolver and a primary for example.org that holds all our records."""
    zone = dnsservers.ZONE + (f"ns2 60 A {dnsservers.SECONDARY}\n@ 60 NS ns2\n" * secondary)
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        start(dnsservers.knot(tmp_path / "root", dnsservers.ROOT, {".": dnsservers.ROOT_ZONE}))
        start(dnsservers.unbound(tmp_path / "resolver"))
        start(
            dnsservers.knot(
                tmp_path / "primary",
                dnsservers.PRIMARY,
                {"example.org.": zone},
                notify=dnsservers.SECONDARY,
            )
        )
        own.dns.publish()
        yield


def test_opendkim_verifies_what_both_keys_sign_with_the_records(own, directory, tmp_path):
    """opendkim-testmsg reads the records from DNS. Debian's build knows Ed25519, too."""
    selectors = own_modules.make_keys(own)
    with name_servers(tmp_path, own):
        for selector in selectors:
            message = sign_with_key(directory, selector)
            good, bad = (
                own_modules.run_in_machine(tmp_path, "opendkim-testmsg", input=each)
                for each in (message, message + b"more\r\n")
            )
            assert good.returncode == 0, (selector, good.stderr)
            assert bad.returncode != 0


def test_first_keys_are_announced_made_and_then_left_alone(own, directory):
    own.dkim_state.__opts__ = {"test": True}
    announced = own.dkim_state.key_present("keys")
    assert announced["result"] is None
    assert not directory.exists()
    own.dkim_state.__opts__ = {"test": False}
    made = own.dkim_state.key_present("keys")
    assert made["result"] is True
    assert made["changes"] == announced["changes"]
    assert "PRIVATE" not in str(made)
    signing_now = [key.selector for key in signing.load_keys(directory)]
    assert made["changes"] == {"signing keys": {"old": [], "new": signing_now}}
    before = {path.name: (path.read_bytes(), path.stat().st_mtime) for path in directory.iterdir()}
    again = own.dkim_state.key_present("keys")
    assert (again["result"], again["changes"]) == (True, {})
    assert before == {
        path.name: (path.read_bytes(), path.stat().st_mtime) for path in directory.iterdir()
    }


def test_restored_key_is_used_and_the_other_algorithm_gets_a_new_one(own, directory):
    """A key of an earlier installation keeps its selector."""
    own.dkim.generate("opendkim")
    (directory / "opendkim.pem").chmod(0o644)
    made = own.dkim_state.key_present("keys")
    ed25519 = own.dkim.list_()
    new = [selector for selector in ed25519 if selector != "opendkim"]
    assert made["changes"]["signing keys"] == {"old": [], "new": ["opendkim", *new]}
    assert made["changes"]["permissions of opendkim"]["old"].startswith("0644 ")
    assert stat.S_IMODE((directory / "opendkim.pem").stat().st_mode) == 0o640


def test_lost_private_key_is_an_error_and_no_new_key_is_made(own, directory):
    rsa, _ed25519 = own_modules.make_keys(own)
    (directory / f"{rsa}.pem").unlink()
    result = own.dkim_state.key_present("keys")
    assert result["result"] is False
    assert "restore it from a backup" in result["comment"]


# Rotation.


@contextlib.contextmanager
def days_pass(own, days):
    """Set the program's clock forward by some days."""
    now = signing_state.now
    signing_state.now = lambda: now() + datetime.timedelta(days=days)
    try:
        yield
    finally:
        signing_state.now = now


def signing_keys(directory):
    return [key.selector for key in signing.load_keys(directory)]


def in_zone():
    found = dnsservers.contents(dnsservers.PRIMARY)
    return {name.partition("._domainkey.")[0] for name, _, _ in found if "._domainkey." in name}


def test_rotation_publishes_waits_switches_and_withdraws(own, directory, tmp_path):
    old = own_modules.make_keys(own)
    with name_servers(tmp_path, own):
        done = own.dkim.rotate(wait=5)
        assert (done["step"], done["publish"]) == ("switched", [])
        new = signing_keys(directory)
        assert done["signing"] == new
        assert not set(new) & set(old)
        assert in_zone() >= {*old, *new}
        assert own.dkim.verify()["result"]
        # A second call starts no rotation, because the old records are still needed.
        assert own.dkim.rotate(wait=0)["step"] == "retiring"
        with days_pass(own, 13.9):
            assert own.dkim.withdraw() == {"withdrawn": [], "remove": []}
        assert signing_keys(directory) == new
        with days_pass(own, 14.1):
            assert own.dkim.withdrawn() == [f"{name}._domainkey.{DOMAIN}." for name in old]
            assert own.dkim.withdraw() == {"withdrawn": sorted(old), "remove": []}
        assert not set(old) & in_zone()
        assert sorted(own.dkim.list_()) == sorted(new)
        assert own.dns.check()["result"]


def test_rotation_by_hand_waits_for_the_operator_and_goes_on(own, directory, tmp_path):
    old = own_modules.make_keys(own)
    with name_servers(tmp_path, own):
        own.relay["dns"]["server"] = None
        first = own.dkim.rotate(wait=0)
        assert first["step"] == "waiting"
        assert signing_keys(directory) == old
        again = own.dkim.rotate(wait=0)
        assert again["publish"] == first["publish"]  # no third pair of keys
        record, other = first["publish"]
        chunks = ['"' + record["value"][:200] + '" "' + record["value"][200:] + '"']
        dnsservers.set_records(record["name"], "TXT", *chunks)
        half = own.dkim.rotate(wait=0)
        assert half["step"] == "waiting"
        assert other["name"] in half["comment"]
        assert record["name"] not in half["comment"]
        dnsservers.set_records(other["name"], "TXT", '"' + other["value"] + '"')
        assert own.dkim.rotate(wait=0)["step"] == "switched"
        with days_pass(own, 15):
            names = [f"{name}._domainkey.{DOMAIN}." for name in old]
            assert own.dkim.withdraw() == {"withdrawn": [], "remove": names}
            for name in names:
                dnsservers.set_records(name, "TXT")
            assert own.dkim.withdraw() == {"withdrawn": sorted(old), "remove": []}


def test_rotation_waits_for_a_secondary_that_lags(own, directory, tmp_path):
    """While one of two servers lacks the new record, half of the relays would refuse our mail."""
    old = own_modules.make_keys(own)
    lagging = dnsservers.ZONE + f"ns2 60 A {dnsservers.SECONDARY}\n@ 60 NS ns2\n"
    with (
        name_servers(tmp_path, own, secondary=True),
        dnsservers.knot(tmp_path / "two", dnsservers.SECONDARY, {"example.org.": lagging}),
    ):
        done = own.dkim.rotate(wait=0.2)
        assert done["step"] == "waiting"
        assert "is missing" in done["comment"]
        assert signing_keys(directory) == old


@pytest.mark.parametrize("stop", ["publish", "wait_for_servers", "switch"])
def test_rotation_stopped_anywhere_goes_on_with_the_same_keys(
    own, directory, tmp_path, monkeypatch, stop
):
    old = own_modules.make_keys(own)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with name_servers(tmp_path, own):
        place = signing_state if stop == "switch" else rotating
        with monkeypatch.context() as patched:
            patched.setattr(place, stop, interrupted)
            with pytest.raises(KeyboardInterrupt):
                own.dkim.rotate(wait=5)
        assert signing_keys(directory) == old
        begun = [name for name, key in own.dkim.list_().items() if key["status"] == "next"]
        assert own.dkim.rotate(wait=5)["step"] == "switched"
    assert sorted(signing_keys(directory)) == sorted(begun)
    assert len(list(directory.glob("*.pem"))) == 4
    assert not list(directory.glob(".draft-*"))


def test_second_rotation_at_the_same_time_is_told_to_wait(own):
    own_modules.make_keys(own)
    with signing_state.locked(), pytest.raises(CommandExecutionError, match="another process"):
        own.dkim.sign_with("x")


def test_rotated_state_follows_age_and_ends_the_rotation(own, directory, tmp_path):
    old = own_modules.make_keys(own)
    state, own.relay["dkim"]["rotate_after"] = own.dkim_state, 90
    assert state.rotated("young")["changes"] == {}
    with name_servers(tmp_path, own):
        age_keys(directory, 91)
        state.__opts__ = {"test": True}
        announced = state.rotated("young")
        assert announced["result"] is None
        assert signing_keys(directory) == old
        state.__opts__ = {"test": False}
        made = state.rotated("young")
        assert (made["result"], made["changes"]) == (True, announced["changes"])
        assert made["changes"]["signing keys"] == {"old": old, "new": signing_keys(directory)}
        assert state.rotated("young")["changes"] == {}
        age_keys(directory, 15)
        ended = state.rotated("young")
        assert ended["changes"] == {"keys withdrawn": {"old": sorted(old), "new": []}}
        assert state.rotated("young")["changes"] == {}


def age_keys(directory, days):
    """Write into the state of the keys that each key has its status for some days."""
    path = directory / "signing.json"
    state = json.loads(path.read_text())
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    for keys in state.values():
        for key in keys:
            key["since"] = since.isoformat(timespec="seconds")
    path.write_text(json.dumps(state))


def test_rotated_state_without_an_age_never_begins(own, directory):
    own_modules.make_keys(own)
    age_keys(directory, 4000)
    assert own.dkim_state.rotated("young")["changes"] == {}


# Against DNS.


def test_verify_names_each_disagreement(own, directory, tmp_path):
    rsa, ed25519 = own_modules.make_keys(own)
    with name_servers(tmp_path, own):
        assert own.dkim.verify()["problems"] == []
        dnsservers.set_records(f"{rsa}._domainkey.{DOMAIN}.", "TXT", '"v=DKIM1;k=rsa;p=AAAA"')
        dnsservers.set_records(f"{ed25519}._domainkey.{DOMAIN}.", "TXT")
        (directory / f"{rsa}.pem").chmod(0o644)
        state = json.loads((directory / "signing.json").read_text())
        state["selectors"][1]["algorithm"] = "rsa-sha256"
        (directory / "signing.json").write_text(json.dumps(state))
        found = own.dkim.verify()
    assert not found["result"]
    assert (found["keys"][rsa]["dns"], found["keys"][ed25519]["dns"]) == ("wrong", "missing")
    text = "\n".join(found["problems"])
    for part in (
        f"{rsa}._domainkey.{DOMAIN}. is wrong",
        "is missing",
        "is 0644",
        "signing.json says",
    ):
        assert part in text
    assert len(found["problems"]) == 4
