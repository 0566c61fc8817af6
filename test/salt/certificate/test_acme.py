"""The certificate of an ACME authority. A stand-in takes the place of certbot."""

import datetime
import itertools
import json
import os
import shutil
import stat
import types

import pytest
from chatmaild.certificate import certbot as certbot_part
from chatmaild.certificate import summary
from support.certificates import SETTINGS, contents, in_use, names_in_use

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of root need root")


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


def test_name_that_fails_is_left_out_and_the_next_run_tries_it_again(
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

    # The next run asks once for all three names. It does not ask again for the two good names.
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
        ({"acme_directory": "https://new.example/dir"}, 0, "another authority issued it"),
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


def test_valid_certificate_of_certbot_replaces_another_pair(acme, certbot, salt_modules, make):
    """A relay that returns from the operator's files to ACME needs no new certificate."""
    acme()
    salt_modules["chatmail_certificate.install"](*make("theirs", names=["other.example.org"]))
    assert acme()["changes"]["certificate"]["new"]["names"] == sorted(SETTINGS["tls_names"])
    assert len(certbot.asked) == 1


def test_tsig_secret_is_only_in_a_file_that_root_alone_reads(acme, certbot, module, tmp_path):
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
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("c2VjcmV0", "holds no TSIG key"),
        ('key "a" { secret "c2VjcmV0"; };', "holds no TSIG key"),
    ],
)
def test_file_without_a_tsig_key_is_refused_and_its_content_not_shown(
    acme, certbot, tmp_path, text, message
):
    if text is not None:
        (tmp_path / "tsig.key").touch(0o600)
        (tmp_path / "tsig.key").write_text(text)
    dns = {"server": "192.0.2.1:53", "tsig_key_file": str(tmp_path / "tsig.key")}
    done = acme(acme_challenge="dns-01", dns=dns)
    assert done["result"] is False
    assert message in done["comment"]
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
