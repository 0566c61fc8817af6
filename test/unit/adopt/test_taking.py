"""The steps of a take-over, their interruption, and the way back."""

import json
import os
import time

import pytest
from chatmaild.adopt import journal, machine, planning, taking, undoing
from chatmaild.common.errors import OperatorError

DOMAIN = "chat.example.org"
MAILBOXES = f"/home/vmail/mail/{DOMAIN}"
SETTINGS = {
    **{setting.name: setting.default for setting in taking.ini.SETTINGS},
    "mail_domain": DOMAIN,
    "mailboxes_dir": MAILBOXES,
}
UNIT = "/etc/systemd/system/doveauth.service"


class User:
    pw_shell, pw_uid, pw_gid = "/bin/sh", os.getuid(), os.getgid()


@pytest.fixture(autouse=True)
def vmail(monkeypatch):
    monkeypatch.setattr(taking.pwd, "getpwnam", lambda _name: User)


@pytest.fixture
def whole(old):
    """A machine with a unit, a pin and a pending notification."""
    old.write(UNIT, "[Service]\n")
    old.write("/etc/systemd/system/dovecot.service.d/10_restart.conf", "[Service]\n")
    old.write("/etc/apt/preferences.d/pin-dovecot", "Package: dovecot-*\n")
    old.write("/etc/postfix/main.cf", "myhostname = old\n")
    old.write(f"{MAILBOXES}/pending_notifications/{'a' * 32}", f"abcdefghi@{DOMAIN}\n17\ntoken")
    return old


def start(settings=SETTINGS):
    return taking.start(settings, [], ["coturn", "tcc", "dovecot-auth-lua"])


def ran(old, beginning):
    return [each for each in old.commands if each.startswith(beginning)]


def test_start_removes_what_cmdeploy_made_and_keeps_copies(whole):
    done = start()
    assert done["differs"] == {}
    assert not machine.here(UNIT).exists()
    assert not machine.here("/etc/systemd/system/dovecot.service.d").exists()
    assert not machine.here("/usr/local/lib/chatmaild").exists()
    assert (journal.files() / UNIT.lstrip("/")).read_text() == "[Service]\n"
    assert machine.here("/etc/postfix/main.cf").exists()
    assert oct(machine.here(journal.DIRECTORY).stat().st_mode)[-3:] == "700"


def test_start_hands_over_key_certificate_and_notifications(whole, key):
    start()
    assert machine.here("/etc/chatmail/dkim/opendkim.pem").read_bytes() == key
    certificate = machine.here(f"/var/lib/acme/live/{DOMAIN}/fullchain").read_bytes()
    assert machine.here("/etc/chatmail/tls/fullchain.pem").read_bytes() == certificate
    [path] = machine.here("/var/lib/chatmail-metadata/pending").iterdir()
    expected = {"address": f"abcdefghi@{DOMAIN}", "token": "token", "first_try": 17}
    assert json.loads(path.read_text()) == expected
    home = machine.here(f"{MAILBOXES}/abcdefghi@{DOMAIN}")
    assert oct(home.stat().st_mode)[-3:] == "710"


def test_notifications_that_are_handed_over_twice_are_there_once(whole):
    for _ in range(2):
        old = whole.write(f"{MAILBOXES}/pending_notifications/{'a' * 32}", "a@b\n17\ntoken")
        taking.mailboxes.move_notifications(MAILBOXES, (User.pw_uid, User.pw_gid))
        assert not old.exists()
    [path] = machine.here("/var/lib/chatmail-metadata/pending").iterdir()
    assert json.loads(path.read_text())["address"] == "a@b"


def test_mail_service_ends_after_the_packages_are_there(whole):
    start()
    stop = whole.commands.index(ran(whole, "systemctl stop")[0])
    # A package that does not touch the mail service is installed before; TURN comes much later.
    assert any(each.endswith("install tcc") for each in whole.commands[:stop])
    [dovecot] = [each for each in whole.commands if "dovecot-core=" in each]
    assert "dovecot-core=1:2.3.19.1+dfsg1-2.1+deb12u1" in dovecot
    assert "--allow-downgrades" in dovecot
    installing = [number for number, each in enumerate(whole.commands) if " install " in each]
    assert max(installing) < stop
    assert "coturn" not in " ".join(each for each in whole.commands if "--download" not in each)


@pytest.mark.parametrize(
    "broken",
    ["apt-get -q update", "systemctl stop", "systemctl --no", "systemctl daemon-reload", "cp"],
)
def test_interrupted_start_goes_on_where_it_stopped(whole, broken):
    whole.broken = broken
    with pytest.raises(OperatorError):
        start()
    whole.broken = None
    first = journal.read()
    start()
    assert not machine.here(UNIT).exists()
    assert (journal.files() / UNIT.lstrip("/")).exists()
    assert journal.read()["started"] == first["started"]
    assert journal.read().get("stopped") == first.get("stopped", journal.read()["stopped"])
    whole.commands.clear()
    start()
    assert whole.commands == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mail_domain", "other.example.org"),
        ("mailboxes_dir", "/srv/mail"),
        ("tls_external_cert_and_key", ["/etc/a.pem", "/etc/b.pem"]),
    ],
)
def test_pillar_that_does_not_fit_is_refused_with_nothing_changed(whole, name, value):
    with pytest.raises(OperatorError, match=f"nothing was changed:\n- pillar chatmail:{name} is"):
        start({**SETTINGS, name: value})
    assert not machine.here(journal.DIRECTORY).exists()
    assert machine.here(UNIT).exists()


def test_other_setting_of_the_pillar_is_told(whole):
    told = start({**SETTINGS, "delete_mails_after": 90})["differs"]
    assert told == {"delete_mails_after": {"machine": 20, "pillar": 90}}


def test_undo_puts_files_and_units_back(whole, monkeypatch):
    for name in machine.DOVECOT:
        whole.write(f"/root/{name}_2.3.21%2Bdfsg1-3_amd64.deb")
    start()
    versions = iter(["1:2.3.19.1+dfsg1-2.1+deb12u1"] * 9)
    monkeypatch.setattr(machine, "dovecot_versions", lambda: (next(versions), ""))
    machine.here("/etc/postfix/main.cf").write_text("myhostname = new\n")
    undoing.undo({})
    assert machine.here(UNIT).read_text() == "[Service]\n"
    assert machine.here("/etc/postfix/main.cf").read_text() == "myhostname = old\n"
    assert machine.here(machine.INI).exists()
    assert len(list(machine.here(f"{MAILBOXES}/pending_notifications").iterdir())) == 1
    assert not machine.here(journal.DIRECTORY).exists()
    # An `undo` that was cut off in dpkg left dovecot-core unconfigured, and the next one passed it.
    dpkg = [each for each in ran(whole, "dpkg -") if "--audit" not in each]
    assert dpkg[-2] == "dpkg --configure -a"
    assert dpkg[-1].startswith("dpkg --force-confold -i")
    assert "doveauth.service" in ran(whole, "systemctl restart")[0]


def test_undo_of_a_start_that_was_cut_off_puts_no_incomplete_copy_back(whole, monkeypatch):
    whole.broken = "cp"
    with pytest.raises(OperatorError):
        start()
    whole.broken = None
    # The first bytes of a file, as a copy that was cut off leaves them.
    copy = journal.files() / "etc/postfix/main.cf"
    copy.parent.mkdir(parents=True)
    copy.write_text("myhost")
    monkeypatch.setattr(machine, "dovecot_versions", lambda: ("1:2.3.21+dfsg1-3", ""))
    undoing.undo({})
    assert machine.here("/etc/postfix/main.cf").read_text() == "myhostname = old\n"


def test_undo_after_the_first_night_is_refused(whole, monkeypatch):
    start()
    begun = journal.read()
    monkeypatch.setattr(undoing.time, "time", lambda: begun["started"] + 25 * 3600)
    with pytest.raises(OperatorError, match="the first night has passed"):
        undoing.check({})


def test_last_moment_for_undo_is_the_next_midnight():
    started = time.mktime((2026, 11, 26, 17, 0, 0, 0, 0, -1))
    end = undoing.planning.last_moment({"started": started})
    assert time.localtime(end)[:5] == (2026, 11, 27, 0, 0)


def test_undo_without_the_old_dovecot_is_refused(whole, monkeypatch):
    start()
    monkeypatch.setattr(machine, "dovecot_versions", lambda: ("1:2.3.19", "1:2.3.19"))
    with pytest.raises(OperatorError, match=r"/root/dovecot-\*\.deb are gone"):
        undoing.check({})


def test_undo_of_nothing_is_refused(old):
    with pytest.raises(OperatorError, match="no take-over that could be undone"):
        undoing.check({})


def test_undo_while_the_relay_is_there_is_refused(whole, monkeypatch):
    start()
    monkeypatch.setattr(machine, "dovecot_versions", lambda: ("1:2.3.21+dfsg1-3", ""))
    whole.write("/etc/chatmail/relay.json", "{}")
    with pytest.raises(OperatorError, match="the relay is still there"):
        undoing.undo({})


def test_second_run_at_the_same_time_is_refused_with_nothing_changed(whole):
    """A killed salt-call leaves its program at work."""
    with journal.locked():
        for run in (start, lambda: undoing.undo({})):
            with pytest.raises(OperatorError, match="another run of chatmail_adopt is at work"):
                run()
    assert not machine.here(journal.DIRECTORY).exists()
    assert start()["next"] == "salt-call state.apply chatmail"


@pytest.mark.parametrize("broken", ["systemctl --no-reload disable", "systemctl stop", "cp"])
def test_highstate_is_refused_until_the_last_step_of_start(whole, broken):
    """`state.apply chatmail` refuses a machine with chatmail.ini (chatmail_relay.ports_free)."""
    whole.broken = broken
    with pytest.raises(OperatorError):
        start()
    assert machine.here(machine.INI).exists()
    assert taking.STEPS[-1] is taking._remove
    assert machine.INI.startswith(machine.REMOVED[-1])


def test_notifications_are_handed_over_where_chatmail_accounts_reads_them(whole):
    from chatmaild.metadata import service

    assert str(service.PENDING) == taking.mailboxes.OUR_PENDING
    start()
    assert len(list(machine.here(service.PENDING).iterdir())) == 1


def test_directory_of_mailboxes_may_end_with_a_slash_in_chatmail_ini(whole):
    whole.write(machine.INI, f"[params]\nmail_domain = {DOMAIN}\nmailboxes_dir = {MAILBOXES}/\n")
    assert start()["differs"] == {}


def test_relay_of_an_ip_address_is_taken_over_without_a_dkim_key(whole):
    whole.write(machine.INI, "[params]\nmail_domain = 192.0.2.1\n")
    machine.here(machine.DKIM_KEY).unlink()
    for old, new in (("fullchain", "certs/mailserver.pem"), ("privkey", "private/mailserver.key")):
        content = machine.here(f"/var/lib/acme/live/{DOMAIN}/{old}").read_bytes()
        whole.write(f"/etc/ssl/{new}", content)
    home = "/home/vmail/mail/192.0.2.1/abcdefghi@[192.0.2.1]"
    whole.write(f"{home}/password", "{SHA512-CRYPT}$6$x")
    planned = planning.plan({}, [])
    assert (planned["state"], planned["pillar"]) == ("ready", {"mail_domain": "192.0.2.1"})
    assert (planned["found"]["addresses"], planned["found"]["unusable"]) == (1, 0)
    directory = {"mail_domain": "192.0.2.1", "mailboxes_dir": "/home/vmail/mail/192.0.2.1"}
    assert start({**SETTINGS, **directory})["differs"] == {}
    assert not machine.here("/etc/chatmail/dkim").exists()
    assert oct(machine.here(home).stat().st_mode)[-3:] == "710"
