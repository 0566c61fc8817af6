"""An archive brings a relay back: keys, addresses, device tokens, invitations, blocks."""

import json
import os
import stat
import subprocess

import pytest
from chatmaild.accounts import mailboxes, nocreate
from chatmaild.backup import creating, machine, messages, restoring
from chatmaild.common.errors import InvalidRequest, OperatorError
from passlib.hash import sha512_crypt
from support.backup import (
    ACCOUNT,
    DAY,
    DOMAIN,
    INVITED,
    PASSWORD,
    SECRETS,
    TOKEN,
    Machine,
    home_files,
    unseal,
)

# The directory of the certificate in use has a random name.
VOLATILE = ("etc/chatmail/tls/", "etc/letsencrypt/archive/chatmail/")


def restored(old, new, key, monkeypatch, **arguments):
    """Back up one relay and bring it back on the other one; return both results."""
    made = creating.create(old.use(monkeypatch).settings, **arguments)
    result = restoring.restore(new.use(monkeypatch).settings, made["path"], str(key[0]))
    return made, result


def test_restored_relay_has_the_files_of_the_old_one(old, new, key, monkeypatch):
    made, result = restored(old, new, key, monkeypatch)
    assert made["addresses"] == result["addresses"] == 2
    assert made["invitations"] == result["invitations"] == 1
    assert result["kept"] == 0
    before, after = (
        {name: content for name, content in each.files().items() if not name.startswith(VOLATILE)}
        for each in (old, new)
    )
    assert after == before
    for name in ("fullchain.pem", "privkey.pem"):
        served = [(each.root / "etc/chatmail/tls" / name).read_bytes() for each in (old, new)]
        issued = [
            (each.root / "etc/letsencrypt/live/chatmail" / name).read_bytes() for each in (old, new)
        ]
        assert len({*served, *issued}) == 1
    # The version that is not in use stays behind.
    versions = os.listdir(new.root / machine.VERSIONS)
    assert sorted(versions) == [f"{name}2.pem" for name in machine.PEM_NAMES]
    assert not (new.root / "etc/chatmail/restoring").exists()


def test_restored_address_has_password_day_tokens_and_block(old, new, key, monkeypatch):
    restored(old, new, key, monkeypatch)
    home = new.mail / f"alice0000@{DOMAIN}"
    assert (home / "password").stat().st_mtime == DAY
    assert stat.S_IMODE((home / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == mailboxes.HOME_MODE
    hashed = (home / "password").read_text().removeprefix("{SHA512-CRYPT}")
    assert sha512_crypt.verify(PASSWORD, hashed)
    assert TOKEN in (home / "metadata.json").read_text()
    assert (home / "enforceE2EEincoming").exists()
    blocked = new.mail / f"blocked00@{DOMAIN}"
    assert mailboxes.is_blocked(blocked)
    assert mailboxes.unblock(blocked)
    assert (blocked / "password").stat().st_mtime == DAY
    assert (blocked / "password").read_text().startswith("{SHA512-CRYPT}")


def test_archive_is_for_root_alone_and_shows_no_secret(old, key):
    made = creating.create(old.settings)
    assert stat.S_IMODE(os.stat(made["path"]).st_mode) == 0o600
    with open(made["path"], "rb") as file:
        sealed = file.read()
    members = unseal(made["path"], key[0])
    inside = b"".join(members.values())
    for secret in [*SECRETS, TOKEN.encode(), b"alice0000", INVITED.encode()]:
        assert secret in inside
        assert secret not in sealed
        assert secret.decode() not in json.dumps(made)
    assert os.listdir(old.archives) != []
    assert {name.partition(".age")[2] for name in os.listdir(old.archives)} == {"", ".sha256"}


def test_digest_file_is_for_sha256sum(old):
    made = creating.create(old.settings)
    digests = [name for name in os.listdir(old.archives) if name.endswith(".sha256")]
    command = ["sha256sum", "--check", *digests]
    subprocess.run(command, cwd=old.archives, check=True, capture_output=True)
    assert creating.verify({}, made["path"])["sha256"] == made["sha256"]


def test_pillar_and_settings_are_there_to_read(old, key):
    made = creating.create(old.settings, pillar={"mail_domain": DOMAIN, "fsync": False})
    members = unseal(made["path"], key[0])
    pillar = {"chatmail": {"mail_domain": DOMAIN, "fsync": False}}
    assert json.loads(members["pillar.json"]) == pillar
    assert json.loads(members["relay.json"]) == old.settings


def test_settings_that_differ_are_named(old, new, key, monkeypatch):
    old.settings |= {"registration": "invite", "debian_release": 12}
    new.settings |= {"registration": "open", "debian_release": 13}
    _, result = restored(old, new, key, monkeypatch)
    assert result["settings_differ"] == ["mailboxes_dir", "registration"]


def test_mail_is_in_the_archive_only_if_asked_for(old, new, key, monkeypatch):
    home = old.mail / f"alice0000@{DOMAIN}"
    for folder in (home, home / ".DeltaChat"):
        for place in ("cur", "new", "tmp"):
            (folder / place).mkdir(parents=True)
    message = home / "cur/1700000000.M1P2.host,S=5,W=5:2,S"
    message.write_bytes(b"hello")
    os.utime(message, (DAY, DAY))
    (home / ".DeltaChat/new/1700000001.M1P2.host").write_bytes(b"chat")
    (home / "dovecot-keywords").write_bytes(b"0 $MDNSent\n")
    (home / "dovecot-uidlist").write_bytes(b"3 V1 N2\n1 :x\n")
    (home / "new/secret").symlink_to("/etc/passwd")
    assert "messages" not in creating.create(old.settings, path=str(old.root / "without.age"))
    without = unseal(old.root / "without.age", key[0])
    assert not [name for name in without if name.startswith("mail/")]
    made, _ = restored(old, new, key, monkeypatch, mail=True)
    assert made["messages"] == 2
    expected = home_files(home)
    del expected["dovecot-uidlist"], expected["new/secret"]
    back = new.mail / f"alice0000@{DOMAIN}"
    assert home_files(back) == expected
    assert (back / "cur" / message.name).stat().st_mtime == DAY


def test_external_certificate_stays_with_the_operator(old, new, key, monkeypatch):
    old.settings["tls_mode"] = new.settings["tls_mode"] = "external"
    _, result = restored(old, new, key, monkeypatch)
    assert not [name for name in result["files"] if "letsencrypt" in name or "/tls/" in name]


def test_hook_of_others_does_not_come_back(old, new, key, monkeypatch):
    path = old.root / machine.RENEWAL
    path.write_text(path.read_text() + "pre_hook = /tmp/evil\nmanual_auth_hook=/tmp/evil\n")
    restored(old, new, key, monkeypatch)
    assert "evil" not in (new.root / machine.RENEWAL).read_text()
    assert "renew_hook" in (new.root / machine.RENEWAL).read_text()


def test_account_of_another_certificate_stays(old, new, key, monkeypatch):
    new.write("etc/letsencrypt/renewal/shop.conf", "account = 9e9e\n")
    restored(old, new, key, monkeypatch)
    assert sorted(os.listdir(new.root / ACCOUNT)) == ["0f0f", "9e9e"]


@pytest.mark.parametrize("stopped", [None, "By chatmail_accounts.nocreate.\n", nocreate.MANAGED])
def test_stop_of_new_addresses_is_as_on_the_old_relay(old, new, key, monkeypatch, stopped):
    """What the pillar of the old relay had stopped, the pillar of the new one decides."""
    if stopped:
        old.write("etc/chatmail-nocreate", stopped)
    restored(old, new, key, monkeypatch)
    path = new.root / "etc/chatmail-nocreate"
    found = path.read_text() if path.exists() else None
    assert found == (None if stopped == nocreate.MANAGED else stopped)


def test_keep_removes_the_oldest_archives_of_this_relay_alone(old):
    names = [f"{DOMAIN}-2026010{day}T000000Z.age" for day in range(1, 5)]
    for name in [*names, "other.example-20260101T000000Z.age", "notes.txt"]:
        (old.archives / name).write_text("")
        (old.archives / f"{name}.sha256").write_text("")
    made = creating.create(old.settings, keep=2)
    assert made["removed"] == 3
    left = sorted(name for name in os.listdir(old.archives) if not name.endswith(".sha256"))
    assert left[:2] == [names[3], os.path.basename(made["path"])]
    assert left[2:] == ["notes.txt", "other.example-20260101T000000Z.age"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"path": "relative.age"}, InvalidRequest, "expected an absolute path"),
        ({"path": "/nowhere/at/all.age"}, InvalidRequest, "/nowhere/at does not exist"),
        ({"keep": 0}, InvalidRequest, "keep: 0, allowed is a whole number from 1"),
        ({"keep": True}, InvalidRequest, "keep: True"),
    ],
)
def test_wrong_argument_of_create_makes_no_archive(old, arguments, error, text):
    with pytest.raises(error, match=text):
        creating.create(old.settings, **arguments)
    assert os.listdir(old.archives) == []


def test_existing_file_is_never_overwritten(old):
    path = old.root / "mine.age"
    path.write_text("precious")
    with pytest.raises(InvalidRequest, match="never overwritten"):
        creating.create(old.settings, path=str(path))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("recipients", [[], None, ["age1nonsense"]])
def test_failed_backup_leaves_nothing(old, recipients):
    old.settings["backup_recipients"] = recipients
    with pytest.raises(OperatorError, match=r"backup_recipients is empty|age says: .*recipient"):
        creating.create(old.settings)
    assert os.listdir(old.archives) == []


def test_killed_backup_is_cleared_away_by_the_next(old):
    (old.archives / f"{creating.DRAFT_PREFIX}0123").write_text("half of it")
    creating.create(old.settings)
    assert not [name for name in os.listdir(old.archives) if name.startswith(".")]


def test_second_backup_at_the_same_time_is_refused(old):
    with creating.locked(), pytest.raises(OperatorError, match="another backup or restore runs"):
        creating.create(old.settings)


def test_relay_without_a_domain_has_no_dkim_keys(tmp_path, key, monkeypatch):
    domain = {"address_domain": "[192.0.2.1]", "tls_mode": "self_signed"}
    old, new = (Machine(tmp_path / name, key[1], "192.0.2.1", **domain) for name in ("old", "new"))
    old.use(monkeypatch).add_address("alice0000")
    old.write(machine.TURN_SECRET, SECRETS[3])
    _, result = restored(old, new, key, monkeypatch)
    assert result["files"] == [machine.TURN_SECRET]
    assert (new.mail / "alice0000@[192.0.2.1]/password").exists()


def test_address_with_a_strange_token_file_comes_back(old, new, key, monkeypatch):
    home = old.mail / f"alice0000@{DOMAIN}"
    (home / "metadata.json").write_bytes(b"\xff\xfe no JSON")
    restored(old, new, key, monkeypatch)
    assert home_files(new.mail / home.name) == home_files(home)


@pytest.mark.parametrize(
    "name",
    [
        "mail/alice0000@chat.example.org/../cur/x",
        "mail/../inbox/cur/x",
        "mail/alice0000@chat.example.org/inbox/cur/..",
        "mail/alice0000@chat.example.org/inbox/password",
        "mail/alice0000@chat.example.org/inbox/tmp/x",
        "mail/alice0000@other.example/inbox/cur/x",
        "mail/alice0000@chat.example.org/inbox/cur/a\0b",
        "mail/alice0000@chat.example.org/.a/b/cur/x",
    ],
)
def test_name_that_no_mail_has_belongs_to_no_address(name):
    assert messages.address_of(name, DOMAIN) is None
