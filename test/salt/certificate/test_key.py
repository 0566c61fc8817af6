"""The key of the certificate: renewals keep the key, and one function replaces it."""

import os
import stat

import pytest
from salt.exceptions import CommandExecutionError
from support.certificates import (
    NAMES,
    SETTINGS,
    belong_together,
    contents,
    in_use,
    names_in_use,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of root need root")


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
    """Once, each renewal made a new key."""
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
    # With both options, certbot makes a new key and keeps it at the next renewals.
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


def test_new_key_for_the_operators_files_is_refused(salt_modules, make, module):
    make("tls")
    before = contents(in_use(module))
    paths = make("theirs")
    settings = {"tls_mode": "external", "tls_external_cert_and_key": paths}
    with pytest.raises(CommandExecutionError, match="the key is yours: put a new certificate into"):
        salt_modules["chatmail_certificate.new_key"](settings)
    assert contents(in_use(module)) == before


def test_good_pair_of_the_operator_gives_no_warning(external, make):
    """Once, the list of warnings was empty: Salt counted one warning and showed none."""
    assert "warnings" not in external(make("theirs"))
