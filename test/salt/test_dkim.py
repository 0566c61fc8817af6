"""The DKIM module and states: keys on real files, rotation against real name servers."""

import base64
import contextlib
import datetime
import json
import os
import stat

import dkim
import pytest
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import signing, signing_state, verifying
from chatmaild.message import mime
from chatmaild.rotation import rotating
from cryptography.hazmat.primitives import serialization
from salt.exceptions import CommandExecutionError, SaltInvocationError
from support import dnsservers, own_modules
from support.own_modules import DOMAIN

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="keys of root need root")


@pytest.fixture
def own(tmp_path):
    return own_modules.load(tmp_path, own_modules.settings(tmp_path))


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "chatmail" / "dkim"


# Keys.


@pytest.mark.parametrize(
    ("algorithm", "bits", "kind"),
    [
        ("rsa-sha256", 2048, "rsa"),
        ("rsa-sha256", 3072, "rsa"),
        ("rsa-sha256", 4096, "rsa"),
        ("ed25519-sha256", 256, "ed25519"),
    ],
)
def test_generated_key_is_private_and_its_record_is_its_public_half(
    own, directory, algorithm, bits, kind
):
    arguments = {"bits": bits} if kind == "rsa" else {}
    made = own.dkim.generate("spring", algorithm, **arguments)
    assert made == {
        "selector": "spring",
        "algorithm": algorithm,
        "path": str(directory / "spring.pem"),
    }
    assert stat.S_IMODE(os.stat(made["path"]).st_mode) == 0o640
    private = (directory / "spring.pem").read_bytes()
    assert private.startswith(b"-----BEGIN PRIVATE KEY-----\n")  # PKCS#8
    listed = own.dkim.list_()["spring"]
    assert (listed["algorithm"], listed["bits"], listed["status"]) == (algorithm, bits, "unused")
    told = own.dkim.txt("spring")
    assert "".join(told["chunks"]) == told["value"]
    assert all(len(chunk) <= 255 for chunk in told["chunks"])
    tags = dict(part.split("=", 1) for part in told["value"].split(";"))
    assert (tags["v"], tags["k"]) == ("DKIM1", kind)
    key = serialization.load_pem_private_key(private, None).public_key()
    forms = {"rsa": ("DER", "SubjectPublicKeyInfo"), "ed25519": ("Raw", "Raw")}
    encoding, form = forms[kind]
    octets = key.public_bytes(
        getattr(serialization.Encoding, encoding), getattr(serialization.PublicFormat, form)
    )
    assert base64.b64decode(tags["p"]) == octets


def test_existing_key_is_never_overwritten(own, directory):
    own.dkim.generate("spring")
    before = (directory / "spring.pem").read_bytes()
    with pytest.raises(CommandExecutionError, match="never overwritten"):
        own.dkim.generate("spring", "ed25519-sha256")
    assert (directory / "spring.pem").read_bytes() == before
    assert [path.name for path in directory.iterdir()] == ["spring.pem"]


def test_keys_of_one_day_get_different_selectors(own):
    first, second = (own.dkim.generate()["selector"] for _ in range(2))
    assert second == f"{first}-2"


@pytest.mark.parametrize("selector", ["", "../x", "a.b", "UPPER", "a b", "-a", "a" * 64, "ü"])
def test_strange_selector_never_becomes_a_path(own, directory, selector):
    with pytest.raises(SaltInvocationError):
        own.dkim.txt(selector)
    assert not directory.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"algorithm": "rsa-sha1"}, "rsa-sha256"), ({"bits": 1024}, "2048, 3072 or 4096")],
)
def test_impossible_key_is_refused_with_what_is_allowed(own, arguments, told):
    with pytest.raises(SaltInvocationError, match=told):
        own.dkim.generate(**arguments)


def test_signing_configuration_has_the_form_that_the_filter_reads(own, directory):
    selectors = own_modules.make_keys(own)
    assert [key.selector for key in signing.load_keys(directory)] == selectors
    listed = json.loads((directory / "signing.json").read_text())["selectors"]
    assert [key["algorithm"] for key in listed] == ["rsa-sha256", "ed25519-sha256"]


def test_signing_configuration_of_somebody_else_is_read(own, directory):
    """It needs no more than the filter does; its own time then counts as the keys' age."""
    own.dkim.generate("opendkim")
    (directory / "a.b.pem").write_text("not ours")
    listed = {"selectors": [{"selector": "opendkim", "algorithm": "rsa-sha256"}]}
    (directory / "signing.json").write_text(json.dumps(listed))
    os.utime(directory / "signing.json", (86400, 86400))
    found = own.dkim.list_()
    assert list(found) == ["opendkim"]
    assert found["opendkim"]["since"] == "1970-01-02T00:00:00+00:00"


def test_missing_and_broken_keys_are_told_apart(own, directory):
    rsa, _ed25519 = own_modules.make_keys(own)
    (directory / f"{rsa}.pem").unlink()
    with pytest.raises(CommandExecutionError, match=f"{rsa}.pem is missing: restore"):
        own.dkim.records()
    (directory / f"{rsa}.pem").write_text("nothing")
    with pytest.raises(CommandExecutionError, match="no unencrypted private key"):
        own.dkim.list_()
    (directory / "signing.json").write_text("{")
    with pytest.raises(CommandExecutionError, match=r"signing.json cannot be read"):
        own.dkim.records()


# The signatures.


def signed(directory, selector, domain=DOMAIN):
    """Return a message signed by the filter's own code with one key."""
    message = b"From: a@%b\r\nTo: b@example.net\r\nSubject: [...]\r\n" % domain.encode()
    message += b"Date: Sun, 22 Nov 2026 12:00:00 +0000\r\n"
    fields = mime.parse_fields(message.removesuffix(b"\r\n"))
    key = next(key for key in signing.load_keys(directory) if key.selector == selector)
    made = signing.signature_fields(fields, b"hello\r\n", domain, [key])[0]
    return b"DKIM-Signature:" + made + b"\r\n" + message + b"\r\nhello\r\n"


def test_dkimpy_verifies_what_both_keys_sign_with_the_records(own, directory):
    selectors = own_modules.make_keys(own)
    records = {record["name"]: record["value"] for record in own.dkim.records()}

    def answer(name, timeout=5):
        return records[name.decode()].encode()

    for selector in selectors:
        message = signed(directory, selector)
        assert dkim.verify(message, dnsfunc=answer)
        assert not dkim.verify(message.replace(b"hello", b"hallo"), dnsfunc=answer)


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
    """opendkim-testmsg reads the records from DNS; Debian's build knows Ed25519 too."""
    selectors = own_modules.make_keys(own)
    with name_servers(tmp_path, own):
        for selector in selectors:
            message = signed(directory, selector)
            good, bad = (
                own_modules.run_in_machine(tmp_path, "opendkim-testmsg", input=each)
                for each in (message, message + b"more\r\n")
            )
            assert good.returncode == 0, (selector, good.stderr)
            assert bad.returncode != 0


def test_filter_accepts_what_both_keys_sign_with_the_records(own, directory):
    selectors = own_modules.make_keys(own)
    records = {r["name"]: [r["value"].encode()] for r in own.dkim.records()}
    for selector in selectors:
        header, _, body = signed(directory, selector).partition(b"\r\n\r\n")
        fields = mime.parse_fields(header)
        verifying.check_signatures(fields, body, DOMAIN, lambda name, _: records.get(name, []))
        with pytest.raises(Refusal):
            verifying.check_signatures(fields, body, DOMAIN, lambda name, _: [])


# The state that makes the first keys.


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
    """A key taken over from an earlier installation keeps its selector."""
    own.dkim.generate("opendkim")
    (directory / "opendkim.pem").chmod(0o644)
    made = own.dkim_state.key_present("keys")
    ed25519 = own.dkim.list_()
    new = [selector for selector in ed25519 if selector != "opendkim"]
    assert made["changes"]["signing keys"] == {"old": [], "new": ["opendkim", *new]}
    assert made["changes"]["permissions of opendkim"]["old"].startswith("0644 ")
    assert stat.S_IMODE((directory / "opendkim.pem").stat().st_mode) == 0o640


def test_lost_private_key_is_an_error_and_not_a_reason_for_a_new_one(own, directory):
    rsa, _ed25519 = own_modules.make_keys(own)
    (directory / f"{rsa}.pem").unlink()
    result = own.dkim_state.key_present("keys")
    assert result["result"] is False
    assert "restore it from a backup" in result["comment"]


# Rotation.


@contextlib.contextmanager
def days_pass(own, days):
    """Let the program's clock run ahead."""
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
        # Run again: the old records are still needed, so nothing begins.
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
    """One of two servers without the new record would let half of the world refuse our mail."""
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
    """Let every key have had its status for some days."""
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
    told = "\n".join(found["problems"])
    for part in (
        f"{rsa}._domainkey.{DOMAIN}. is wrong",
        "is missing",
        "is 0644",
        "signing.json says",
    ):
        assert part in told
    assert len(found["problems"]) == 4
