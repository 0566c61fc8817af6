"""The certificate states, on real files."""

import datetime
import itertools
import json
import os
import shutil
import ssl
import stat
import subprocess
import types
from pathlib import Path

import pytest
from chatmaild.certificate import certbot as certbot_part
from chatmaild.certificate import failures, installing, summary
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from salt.exceptions import CommandExecutionError
from support import in_process

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of root need root")

NAMES = ["_chat.example.org", "www._chat.example.org", "mta-sts._chat.example.org"]


@pytest.fixture
def salt_opts(salt_opts):
    """Let the door ask the program in this process."""
    door = Path(salt_opts["extension_modules"]) / "modules" / "chatmail_program.py"
    door.write_text(door.read_text() + in_process.CODE)
    return salt_opts


@pytest.fixture
def pair(tmp_path):
    return {"name": str(tmp_path / "fullchain.pem"), "key": str(tmp_path / "privkey.pem")}


@pytest.fixture
def self_signed(salt_states, pair):
    def call(test=False, names=NAMES, **arguments):
        return salt_states(
            "chatmail_certificate.self_signed", test=test, subject_names=names, **pair, **arguments
        )

    return call


def contents(pair):
    return Path(pair["name"]).read_bytes(), Path(pair["key"]).read_bytes()


def belong_together(pair):
    """Let OpenSSL say whether it would serve with this pair."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair["name"], pair["key"])


def test_absent_pair_is_made_and_second_run_changes_nothing(self_signed, pair):
    announced = self_signed(test=True)
    assert announced["result"] is None
    assert not Path(pair["name"]).exists()
    assert not Path(pair["key"]).exists()
    made = self_signed()
    assert made["result"] is True
    assert made["changes"] == announced["changes"]
    assert made["changes"]["key"] == {"old": None, "new": "EC P-256"}
    assert "PRIVATE" not in str(made)
    belong_together(pair)
    before = contents(pair)
    for test in (True, False):
        again = self_signed(test=test)
        assert (again["result"], again["changes"]) == (True, {})
    assert contents(pair) == before


def test_certificate_is_an_end_entity_for_servers_with_all_names(self_signed, pair):
    self_signed()
    made = x509.load_pem_x509_certificate(contents(pair)[0])
    extension = made.extensions.get_extension_for_class
    assert extension(x509.BasicConstraints).value.ca is False
    assert list(extension(x509.ExtendedKeyUsage).value) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]
    names = extension(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == NAMES
    assert made.public_key().curve.name == "secp256r1"
    assert made.subject.rfc4514_string() == "CN=_chat.example.org"
    assert Path(pair["key"]).stat().st_mode & 0o7777 == 0o640


def test_ip_relay_has_an_ip_address_as_name(self_signed, pair, salt_modules):
    self_signed(names=["13.12.23.42"])
    made = x509.load_pem_x509_certificate(contents(pair)[0])
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["13.12.23.42"]
    shown = salt_modules["chatmail_relay.certificate"](pair["name"])
    assert shown["names"] == ["13.12.23.42"]
    assert shown["self_signed"] is True
    assert shown["days_left"] in (3649, 3650)


def test_domain_longer_than_a_common_name_gets_a_certificate(self_signed, pair):
    """A common name has at most 64 characters; making one for a longer domain raised."""
    name = f"_{'a' * 60}.example.org"
    assert self_signed(names=[name])["result"] is True
    belong_together(pair)


def test_other_names_renew_the_certificate_for_the_same_key(self_signed, pair):
    self_signed()
    key = contents(pair)[1]
    announced = self_signed(test=True, names=["_new.example.org"])
    changed = self_signed(names=["_new.example.org"])
    assert announced["changes"] == changed["changes"]
    assert set(changed["changes"]) == {"certificate"}
    assert changed["changes"]["certificate"]["old"]["names"] == sorted(NAMES)
    assert changed["changes"]["certificate"]["new"]["names"] == ["_new.example.org"]
    assert contents(pair)[1] == key
    belong_together(pair)


def test_certificate_near_its_end_is_renewed_and_one_day_before_not(self_signed):
    self_signed(days=31)
    assert self_signed(days_remaining=30)["changes"] == {}
    renewed = self_signed(days_remaining=31)
    assert renewed["result"] is True
    end = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=3650)
    assert renewed["changes"]["certificate"]["new"]["not_after"] == end.isoformat()
    assert "expires in 30 days" in renewed["comment"]


@pytest.mark.parametrize("broken", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("which", ["name", "key"])
def test_broken_file_is_repaired(self_signed, pair, which, broken):
    self_signed()
    Path(pair[which]).write_bytes(broken)
    repaired = self_signed()
    assert repaired["result"] is True
    assert "certificate" in repaired["changes"]
    belong_together(pair)


def test_lax_access_to_the_key_is_taken_back(self_signed, pair):
    self_signed()
    os.chmod(pair["key"], 0o644)
    changed = self_signed()["changes"]
    assert changed == {"key access": {"old": "root:root 0644", "new": "root:root 0640"}}
    assert stat.S_IMODE(os.stat(pair["key"]).st_mode) == 0o640


def test_crash_after_each_step_leaves_a_pair_that_belongs_together(self_signed, pair, monkeypatch):
    """Only the certificate is replaced, by one rename: cut off before or after, the pair works."""
    self_signed()
    real = os.replace

    def crash_before(*_):
        raise OSError("power failure")

    def crash_after(*arguments):
        real(*arguments)
        raise OSError("power failure")

    for crash in (crash_before, crash_after):
        monkeypatch.setattr(os, "replace", crash)
        cut_off = self_signed(names=["_new.example.org"])
        assert cut_off["result"] is False
        assert "power failure" in cut_off["comment"]
        belong_together(pair)
    assert sorted(os.listdir(Path(pair["name"]).parent)).count("fullchain.pem") == 1
    assert not [each for each in os.listdir(Path(pair["name"]).parent) if each[0] == "."]


def test_placeholder_leaves_the_certificate_of_a_ca_alone(self_signed, pair):
    """What a deploy hook copied there must survive the next converge."""
    self_signed(names=["elsewhere.example.org"])
    issued = contents(pair)
    kept = self_signed(placeholder=True)
    assert (kept["result"], kept["changes"]) == (True, {})
    assert contents(pair) == issued
    Path(pair["key"]).unlink()
    assert self_signed(placeholder=True)["changes"]["key"] == {"old": None, "new": "EC P-256"}
    belong_together(pair)


def test_missing_directory_fails_with_its_name_and_dry_run_does_not(salt_states, tmp_path):
    arguments = {
        "name": str(tmp_path / "none/fullchain.pem"),
        "key": str(tmp_path / "none/privkey.pem"),
        "subject_names": NAMES,
    }
    assert salt_states("chatmail_certificate.self_signed", test=True, **arguments)["result"] is None
    failed = salt_states("chatmail_certificate.self_signed", **arguments)
    assert failed["result"] is False
    assert "none" in failed["comment"]


def test_key_of_a_certificate_that_a_ca_issued_is_kept(self_signed, pair):
    """An RSA key that is there already is as good as ours; replacing it would open a gap."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    Path(pair["key"]).write_bytes(pem)
    self_signed()
    assert contents(pair)[1] == pem
    belong_together(pair)


def test_certificate_is_made_by_a_state_as_it_is_written_in_an_sls(salt_call, pair):
    """Salt multiplies a state by an argument called `names`, so ours must not be called that."""
    sls = {
        "include": ["chatmail.modules"],
        "self-signed certificate": {
            "chatmail_certificate.self_signed": [
                {"name": pair["name"]},
                {"key": pair["key"]},
                {"subject_names": NAMES},
            ]
        },
    }
    done = salt_call("state.apply", "probe", sls={"probe": json.dumps(sls)})
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = [each for each in done.returned.values() if each["changes"]]
    assert made["changes"]["certificate"]["new"]["names"] == sorted(NAMES)
    belong_together(pair)


# Of an authority, and the operator's: chatmail_certificate, the module, with directories of a test.


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Return the program's paths by name, which are the test's own; no daemon reloads."""
    places = {
        "TLS": (installing, tmp_path / "tls"),
        "CERTBOT": (certbot_part, tmp_path / "letsencrypt"),
        "FAILURE": (failures, tmp_path / "failure.json"),
        "DNS_CREDENTIALS": (certbot_part, tmp_path / "rfc2136.ini"),
        "DAEMONS": (installing, ()),
    }
    for name, (part, value) in places.items():
        monkeypatch.setattr(part, name, value)
    return {name: value for name, (_, value) in places.items()}


@pytest.fixture
def make(salt_states, tmp_path):
    """Return a function that makes a pair in a directory, and answers [certificate, key]."""

    def made(directory, names=("chat.example.org",), **arguments):
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
        paths = [str(tmp_path / directory / name) for name in ("fullchain.pem", "privkey.pem")]
        done = salt_states(
            "chatmail_certificate.self_signed",
            name=paths[0],
            key=paths[1],
            subject_names=list(names),
            **arguments,
        )
        assert done["result"] is True
        return paths

    return made


@pytest.fixture
def external(salt_states, module):
    def call(paths, test=False, names=("chat.example.org",)):
        return salt_states(
            "chatmail_certificate.external",
            test=test,
            name=str(module["TLS"] / "fullchain.pem"),
            certificate=paths[0],
            key=paths[1],
            subject_names=list(names),
        )

    return call


def in_use(module):
    return {"name": str(module["TLS"] / "fullchain.pem"), "key": str(module["TLS"] / "privkey.pem")}


def same(module, paths):
    return contents(in_use(module)) == tuple(Path(path).read_bytes() for path in paths)


def test_external_pair_is_put_in_use_once(external, make, module):
    make("tls")
    paths = make("theirs")
    announced = external(paths, test=True)
    assert announced["result"] is None
    assert not same(module, paths)
    done = external(paths)
    assert (done["result"], done["changes"]) == (True, announced["changes"])
    assert same(module, paths)
    assert "PRIVATE" not in str(done)
    for test in (True, False):
        again = external(paths, test=test)
        assert (again["result"], again["changes"]) == (True, {})


def test_pair_is_swapped_as_a_whole_however_far_a_run_gets(salt_modules, make, module, monkeypatch):
    """Cut off at each rename in turn, what lies there is one of the two pairs."""
    for first in ("plain files", "links"):
        for step in range(12):
            shutil.rmtree(module["TLS"], ignore_errors=True)
            old, new = make("tls"), make("theirs")
            if first == "links":
                salt_modules["chatmail_certificate.install"](*make("before"))
                old = make("before")
            real, calls = Path.replace, []

            def replace(self, target, real=real, calls=calls, step=step):
                if len(calls) == step:
                    raise OSError("power failure")
                calls.append(target)
                return real(self, target)

            before = contents(in_use(module))
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", replace)
                finished = True
                try:
                    salt_modules["chatmail_certificate.install"](*new)
                except CommandExecutionError:
                    finished = False
            belong_together(in_use(module))
            assert same(module, new) or contents(in_use(module)) == before
            assert old
            if finished:
                assert same(module, new)
                break
        else:
            pytest.fail("more renames than expected")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda paths: os.unlink(paths[1]), "privkey.pem cannot be read: No such file"),
        (lambda paths: os.unlink(paths[0]), "fullchain.pem cannot be read: No such file"),
        (lambda paths: Path(paths[0]).write_text("junk"), "cannot be used: expected a PEM"),
        (lambda paths: Path(paths[1]).write_text(""), "cannot be used: expected a PEM"),
    ],
    ids=["no key", "no certificate", "no PEM", "empty key"],
)
@pytest.mark.parametrize("test", [True, False])
def test_unusable_external_pair_is_refused_and_the_old_one_stays(
    external, make, module, damage, said, test
):
    make("tls")
    before = contents(in_use(module))
    paths = make("theirs")
    damage(paths)
    refused = external(paths, test=test)
    assert (refused["result"], refused["changes"]) == (False, {})
    assert said in refused["comment"]
    assert contents(in_use(module)) == before


def test_key_of_another_certificate_is_refused(external, make):
    certificate, key = make("one")[0], make("two")[1]
    refused = external([certificate, key])
    assert refused["result"] is False
    assert "do not belong together" in refused["comment"]


def test_external_certificate_for_other_names_is_used_with_a_warning(external, make):
    done = external(make("theirs", names=["other.example.org"]))
    assert done["result"] is True
    assert "does not name chat.example.org" in done["warnings"][0]


def test_self_signed_repairs_a_pair_behind_links_in_its_place(salt_modules, make, module):
    salt_modules["chatmail_certificate.install"](*make("theirs"))
    (module["TLS"] / "privkey.pem").write_text("junk")
    make("tls", placeholder=True)
    belong_together(in_use(module))
    assert (module["TLS"] / "privkey.pem").is_symlink()


# Lineages of certbot, made by hand; a stand-in plays certbot.


SETTINGS = {
    "mail_domain": "chat.example.org",
    "tls_names": ["chat.example.org", "www.chat.example.org", "mta-sts.chat.example.org"],
    "tls_mode": "acme",
    "acme_directory": "https://ca.example/dir",
    "acme_challenge": "http-01",
    "acme_email": None,
}
PROBLEM = """\
Saving debug log to /var/log/letsencrypt/letsencrypt.log
Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority \
reported these problems:
  Domain: {name}
  Type:   dns
  Detail: NXDOMAIN looking up A for {name}

Ask for help or search for solutions at https://community.letsencrypt.org.
"""


@pytest.fixture
def certbot(module, make, tmp_path, monkeypatch):
    """Play certbot: names in `certbot.failing` cannot be validated; a text there fails it all."""

    def run(command, **_):
        if command[0] != "certbot":
            raise AssertionError(command)
        asked.append(command)
        names = command[command.index("--domains") + 1].split(",")
        output = run.error
        for name in set(names) & set(run.failing):
            output += PROBLEM.format(name=name)
        if not output:
            shutil.rmtree(tmp_path / "letsencrypt/live", ignore_errors=True)
            make("letsencrypt/live/chatmail", names=names)
            renewal = tmp_path / "letsencrypt/renewal/chatmail.conf"
            renewal.parent.mkdir(exist_ok=True)
            renewal.write_text(f"server = {command[command.index('--server') + 1]}\n")
        return subprocess.CompletedProcess(command, int(bool(output)), output)

    asked = run.asked = []
    run.failing, run.error = [], ""
    monkeypatch.setattr(
        certbot_part,
        "subprocess",
        types.SimpleNamespace(**{**vars(subprocess), "run": run}),
    )
    return run


@pytest.fixture
def acme(salt_states, module):
    def call(test=False, **settings):
        name = str(module["TLS"] / "fullchain.pem")
        return salt_states(
            "chatmail_certificate.acme", test=test, name=name, settings={**SETTINGS, **settings}
        )

    return call


def names_in_use(salt_modules):
    return salt_modules["chatmail_certificate.installed"]()["names"]


def test_certificate_is_asked_for_once(acme, certbot, make, salt_modules):
    make("tls")
    assert acme(test=True)["result"] is None
    assert certbot.asked == []
    done = acme()
    assert done["result"] is True
    assert done["changes"]["certificate"]["new"]["names"] == sorted(SETTINGS["tls_names"])
    for test in (True, False):
        again = acme(test=test)
        assert (again["result"], again["changes"]) == (True, {})
    assert len(certbot.asked) == 1


def test_failing_name_is_left_out_and_tried_again_without_another_issue(
    acme, certbot, make, salt_modules, module
):
    make("tls")
    certbot.failing = ["www.chat.example.org"]
    done = acme()
    assert done["result"] is True
    assert done["warnings"][0].startswith("www.chat.example.org is not in the certificate: dns: NX")
    assert names_in_use(salt_modules) == ["chat.example.org", "mta-sts.chat.example.org"]
    assert set(json.loads(module["FAILURE"].read_text())["missing"]) == {"www.chat.example.org"}
    assert len(certbot.asked) == 2

    # Asked again for all three, and not again for the two that are good.
    again = acme()
    assert (again["result"], again["changes"]) == (True, {})
    assert len(certbot.asked) == 3
    certbot.failing = []
    assert acme()["changes"]["certificate"]["new"]["names"] == sorted(SETTINGS["tls_names"])
    assert not module["FAILURE"].exists()


def test_mail_domain_that_fails_fails_the_state_and_keeps_the_pair(acme, certbot, make, module):
    make("tls")
    before = contents(in_use(module))
    certbot.failing = ["chat.example.org"]
    done = acme()
    assert (done["result"], done["changes"]) == (False, {})
    assert "NXDOMAIN looking up A for chat.example.org" in done["comment"]
    assert contents(in_use(module)) == before


@pytest.mark.parametrize(
    ("settings", "later", "reason"),
    [
        ({}, 65, "expires in 24 days"),
        ({"acme_directory": "https://new.example/dir"}, 0, "of another authority"),
    ],
)
def test_valid_certificate_stays_when_its_renewal_fails(
    acme, certbot, make, module, monkeypatch, settings, later, reason
):
    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.now(tz) + datetime.timedelta(days=later)

    acme()
    shutil.rmtree(module["CERTBOT"] / "live")
    make("letsencrypt/live/chatmail", names=SETTINGS["tls_names"], days=90)
    clock = types.SimpleNamespace(**{**vars(datetime), "datetime": Later})
    for part in (certbot_part, summary):
        monkeypatch.setattr(part, "datetime", clock)
    certbot.error = "the authority is not there\n"
    done = acme(**settings)
    assert done["result"] is True
    assert done["warnings"] == ["the authority is not there"]
    assert reason in done["comment"]
    assert json.loads(module["FAILURE"].read_text())["error"] == "the authority is not there"
    certbot.error = ""
    assert acme(**settings)["result"] is True
    assert acme(**settings)["changes"] == {}


def test_pair_of_somebody_else_gives_way_to_the_authoritys(acme, certbot, salt_modules, make):
    """As after a change from the operator's files to ACME while certbot's is still good."""
    acme()
    salt_modules["chatmail_certificate.install"](*make("theirs", names=["other.example.org"]))
    assert acme()["changes"]["certificate"]["new"]["names"] == sorted(SETTINGS["tls_names"])
    assert len(certbot.asked) == 1


def test_tsig_secret_goes_to_a_file_of_roots_and_nowhere_else(acme, certbot, module, tmp_path):
    key = tmp_path / "tsig.key"
    key.touch(0o600)
    key.write_text('key "relay." {\n\talgorithm hmac-sha512;\n\tsecret "c2VjcmV0";\n};\n')
    dns = {"server": "[2001:db8::1]:5353", "tsig_key_file": str(key)}
    done = acme(acme_challenge="dns-01", dns=dns)
    assert done["result"] is True
    assert "c2VjcmV0" not in str(done) + str(certbot.asked)
    written = module["DNS_CREDENTIALS"]
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert written.read_text().splitlines() == [
        "dns_rfc2136_server = 2001:db8::1",
        "dns_rfc2136_port = 5353",
        "dns_rfc2136_name = relay.",
        "dns_rfc2136_secret = c2VjcmV0",
        "dns_rfc2136_algorithm = HMAC-SHA512",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("c2VjcmV0", "holds no TSIG key"),
        ('key "a" { secret "c2VjcmV0"; };', "holds no TSIG key"),
    ],
)
def test_tsig_file_that_is_none_is_refused_without_its_content(acme, certbot, tmp_path, text, said):
    if text is not None:
        (tmp_path / "tsig.key").touch(0o600)
        (tmp_path / "tsig.key").write_text(text)
    dns = {"server": "192.0.2.1:53", "tsig_key_file": str(tmp_path / "tsig.key")}
    done = acme(acme_challenge="dns-01", dns=dns)
    assert done["result"] is False
    assert said in done["comment"]
    assert "c2VjcmV0" not in str(done)
    assert certbot.asked == []


def test_account_is_made_once(salt_states, module, monkeypatch, tmp_path):
    accounts = tmp_path / "letsencrypt/accounts/ca.example/dir/1"

    def register(*arguments):
        assert arguments[0] == "register"
        assert ("--email", "a@b.example") in itertools.pairwise(arguments)
        accounts.mkdir(parents=True)
        (accounts / "regr.json").write_text("{}")

    monkeypatch.setattr(certbot_part, "_run_certbot", register)
    arguments = {
        "name": SETTINGS["acme_directory"],
        "settings": {**SETTINGS, "acme_email": "a@b.example"},
    }
    announced = salt_states("chatmail_certificate.acme_account", test=True, **arguments)
    assert announced["result"] is None
    made = salt_states("chatmail_certificate.acme_account", **arguments)
    assert (made["result"], made["changes"]) == (True, announced["changes"])
    assert salt_states("chatmail_certificate.acme_account", **arguments)["changes"] == {}


# The key: renewals keep it, and one function changes it.


def key_of(module):
    return contents(in_use(module))[1]


def test_renewal_of_a_self_signed_certificate_keeps_its_key(self_signed, pair):
    """Delta Chat remembers the key of a host, and takes an expired certificate with that key."""
    self_signed(days=31)
    certificate, key = contents(pair)
    self_signed(days_remaining=31)
    assert contents(pair)[0] != certificate
    assert contents(pair)[1] == key


def test_certbot_is_asked_to_keep_the_key(acme, certbot):
    """Each renewal made a new key."""
    acme()
    acme(acme_directory="https://new.example/dir")
    assert len(certbot.asked) == 2
    for command in certbot.asked:
        assert "--reuse-key" in command
        assert "--new-key" not in command


def test_new_key_comes_from_the_authority_for_the_names_of_the_certificate(
    acme, certbot, salt_modules, module
):
    certbot.failing = ["www.chat.example.org"]
    acme()
    before, names = key_of(module), names_in_use(salt_modules)
    shown = salt_modules["chatmail_certificate.new_key"](SETTINGS)
    # certbot keeps the new one from then on.
    assert {"--reuse-key", "--new-key"} <= set(certbot.asked[-1])
    assert certbot.asked[-1][certbot.asked[-1].index("--domains") + 1].split(",") == names
    assert (shown["names"], key_of(module) != before) == (names, True)


def test_authority_that_gives_no_new_key_leaves_the_old_one(acme, certbot, salt_modules, module):
    acme()
    before = contents(in_use(module))
    certbot.error = "the authority is not there\n"
    with pytest.raises(CommandExecutionError, match="the authority is not there"):
        salt_modules["chatmail_certificate.new_key"](SETTINGS)
    assert contents(in_use(module)) == before


def test_new_key_without_a_certificate_of_the_authority_says_what_to_do(salt_modules, module):
    with pytest.raises(CommandExecutionError, match="no certificate of the authority yet; apply"):
        salt_modules["chatmail_certificate.new_key"](SETTINGS)


def test_new_key_of_a_self_signed_certificate_is_made_and_stays(salt_modules, make, module):
    make("tls", names=NAMES)
    before = contents(in_use(module))
    settings = {"tls_mode": "self_signed", "tls_names": NAMES}
    shown = salt_modules["chatmail_certificate.new_key"](settings)
    assert shown["names"] == sorted(NAMES)
    assert shown["days_left"] == 3649
    assert contents(in_use(module))[1] != before[1]
    assert "PRIVATE" not in str(shown)
    belong_together(in_use(module))
    after = contents(in_use(module))
    make("tls", names=NAMES)
    assert contents(in_use(module)) == after
    for name, mode in (("fullchain.pem", 0o644), ("privkey.pem", 0o640)):
        assert stat.S_IMODE((module["TLS"] / name).stat().st_mode) == mode


def test_new_key_for_the_operators_files_is_the_operators_task(salt_modules, make, module):
    make("tls")
    before = contents(in_use(module))
    paths = make("theirs")
    settings = {"tls_mode": "external", "tls_external_cert_and_key": paths}
    with pytest.raises(CommandExecutionError, match="the key is yours: put a new certificate into"):
        salt_modules["chatmail_certificate.new_key"](settings)
    assert contents(in_use(module)) == before


def test_good_pair_of_the_operator_gives_no_warning(external, make):
    """An empty list of warnings made Salt count one and show none."""
    assert "warnings" not in external(make("theirs"))
