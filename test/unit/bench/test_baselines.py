"""What `make bench` switches off in a box, with the rendered configuration of the formula."""

import re
from pathlib import Path

import pytest
from bench import baselines

REFERENCE = Path(__file__).parents[2] / "reference"
MASTER = (REFERENCE / "both-releases/domain/etc/postfix/master.cf").read_text()
HASH = "{SHA512-CRYPT}$6$salt$hash"


@pytest.fixture(params=["debian-12", "debian-13"])
def dovecot(request):
    return (REFERENCE / request.param / "domain/etc/dovecot/dovecot.conf").read_text()


def test_static_passdb_takes_the_place_of_lua_for_logins_and_mailboxes(dovecot):
    found = baselines.with_static_passdb(dovecot, "/home/mail", HASH)
    assert "auth.lua" in dovecot
    assert "auth.lua" not in found
    assert len(baselines.LOGIN_BLOCK.findall(found)) == 2
    assert HASH in found
    assert "/home/mail/" in found
    assert found.startswith(dovecot[: dovecot.index("passdb")])


def test_static_passdb_without_a_hash_checks_no_password(dovecot):
    found = baselines.with_static_passdb(dovecot, "/home/mail")
    assert re.search(r"nopassword ?= ?y", found)


def test_static_passdb_is_refused_when_the_configuration_has_other_blocks(dovecot):
    with pytest.raises(RuntimeError, match="4 blocks"):
        baselines.with_static_passdb(dovecot + dovecot, "/home/mail")


def test_chain_without_plugins_keeps_the_other_ones():
    found = baselines.without_plugins("", ["quota", "zlib", "notify", "push_notification", "x"])
    assert found == "protocol lmtp {\n  mail_plugins = quota x\n}\n"


def test_chain_without_plugins_switches_each_of_2_4_off():
    text = (REFERENCE / "debian-13/domain/etc/dovecot/dovecot.conf").read_text()
    found = baselines.without_plugins(text, [])
    assert found.startswith(text)
    assert found.count(" = no\n", len(text)) == len(baselines.LEFT_OUT)


def test_chain_without_milters_names_none():
    assert "smtpd_milters" in MASTER
    found = baselines.without_milters(MASTER)
    assert "smtpd_milters" not in found
    assert found.count("\n") == MASTER.count("\n") - MASTER.count("smtpd_milters")


def test_chain_without_milters_is_refused_when_there_is_nothing_to_take_away():
    with pytest.raises(RuntimeError, match="smtpd_milters"):
        baselines.without_milters("smtp inet n - y - 1 smtpd\n")


class Box:
    """A box whose root is a folder."""

    def __init__(self, root):
        self.root, self.ran = root, []

    def path(self, path):
        return self.root / path.lstrip("/")

    def run(self, line):
        self.ran.append((line, self.path("/a").read_text()))


def test_files_are_put_back_also_after_a_failure(tmp_path):
    box = Box(tmp_path)
    box.path("/a").write_text("before")
    with pytest.raises(ValueError, match="in the block"), baselines.changed(box, {"/a": "x"}, "go"):
        raise ValueError("in the block")
    assert box.ran == [("go", "x"), ("go", "before")]
