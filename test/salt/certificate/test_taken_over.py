"""A certificate that a take-over brought stays until it is due (chatmaild.adopt)."""

import datetime
import os
import shutil
import types

import pytest
from chatmaild.certificate import certbot as certbot_part
from chatmaild.certificate import summary
from support.certificates import SETTINGS, contents, in_use, names_in_use

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of root need root")


@pytest.fixture
def taken_over(make, module):
    """A pair in use that a take-over brought. Return a function that makes it, with its life."""

    def take(days=90, names=tuple(SETTINGS["tls_names"])):
        make("tls", names=names, days=days)
        tls = module["TLS"]
        shutil.copy(tls / "fullchain.pem", tls / "taken-over.pem")
        return contents(in_use(module))

    return take


@pytest.fixture
def later(monkeypatch):
    """Set the clock of the program 65 days ahead, so that 24 of 90 days are left."""

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.now(tz) + datetime.timedelta(days=65)

    def set_clock():
        clock = types.SimpleNamespace(**{**vars(datetime), "datetime": Later})
        for part in (certbot_part, summary):
            monkeypatch.setattr(part, "datetime", clock)

    return set_clock


def test_certificate_of_a_take_over_stays_and_nobody_is_asked(acme, certbot, taken_over, module):
    """With another ACME account, a CAA record may forbid a new certificate."""
    before = taken_over()
    for test in (True, False):
        done = acme(test=test)
        assert (done["result"], done["changes"], "warnings" in done) == (True, {}, False)
    assert certbot.asked == []
    assert contents(in_use(module)) == before


def test_certificate_of_a_take_over_is_replaced_when_it_is_due(
    acme, certbot, taken_over, later, salt_modules
):
    taken_over()
    later()
    assert acme(test=True)["comment"].endswith("expires in 24 days.")
    acme()
    assert len(certbot.asked) == 1
    assert names_in_use(salt_modules) == sorted(SETTINGS["tls_names"])


def test_certificate_of_a_take_over_is_replaced_when_it_lacks_a_name(acme, certbot, taken_over):
    taken_over(names=("chat.example.org",))
    assert "lacks www.chat.example.org" in acme(test=True)["comment"]


def test_renewal_that_the_authority_refuses_is_a_warning_while_the_old_one_is_valid(
    acme, certbot, taken_over, later, module
):
    before = taken_over()
    later()
    certbot.failing = list(SETTINGS["tls_names"])
    done = acme()
    assert done["result"] is True
    assert "warnings" in done
    assert contents(in_use(module)) == before


def test_other_pair_in_use_is_not_the_one_of_a_take_over(acme, certbot, taken_over, make, module):
    taken_over()
    other = make("other", names=SETTINGS["tls_names"])
    for path, name in zip(other, ("fullchain.pem", "privkey.pem"), strict=True):
        shutil.copy(path, module["TLS"] / name)
    acme()
    assert len(certbot.asked) == 1
