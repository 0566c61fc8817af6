"""One command turns an empty machine into a relay. The second run changes nothing.

`state.apply chatmail.clean` removes the relay. Mail and keys stay, unless they are purged.
"""

import json

import pytest
from relay.client import encrypted, imap, new_account, smtp
from support.converging import (
    APPLY,
    apply,
    changed,
    changing,
    failed,
    not_as_expected,
    states,
)

CLEAN = "salt-call --local state.apply chatmail.clean"
PURGE = CLEAN + """ pillar='{"chatmail": {"clean": {"purge": true}}}'"""
# The beginnings of our files, with the comment signs of all daemons.
OURS = "grep -rl 'Managed by the chatmail formula' /etc /usr/local /var/lib"
REPLACED = (
    "/etc/dovecot/dovecot.conf",
    "/etc/nginx/nginx.conf",
    "/etc/postfix/main.cf",
    "/etc/postfix/master.cf",
    "/etc/resolv.conf",
    "/etc/unbound/unbound.conf",
)
KEYS = ("/etc/chatmail/dkim", "/etc/chatmail/turn-secret")
QUEUES = "maildrop hold incoming active deferred"
DAEMONS = ("dovecot", "nginx", "postfix", "unbound")
USERS = ("vmail", "chatmail-filter", "chatmail-transport")


@pytest.fixture(scope="module")
def first_runs(idle_box):
    """The prediction for an empty machine, and the result of the first converge."""
    predicted = idle_box.run(f"{APPLY} test=True --out=json", check=False)
    return predicted, idle_box.run(f"{APPLY} --out=json", check=False)


@pytest.fixture(scope="module")
def box(idle_box, first_runs):
    """A relay for this file only, because the tests remove it."""
    return idle_box


@pytest.fixture(scope="module")
def account(box):
    """An account with one message, and another one in Postfix's queue."""
    account = new_account(box)
    with smtp(box, account) as connection:
        # For the lab's resolvers this domain is invalid for now, so mail to it waits.
        for recipient in (account.address, "someone@bogus.example"):
            message = encrypted(account.address, recipient)
            connection.sendmail(account.address, [recipient], message)
    box.wait_until(lambda: messages(box, account) == 1)
    box.wait_until(lambda: "/deferred/" in queued(box))
    return account


def messages(relay, account):
    """Return how many messages the INBOX has."""
    with imap(relay, account) as connection:
        return int(connection.select("INBOX", readonly=True)[1][0])


def queued(box):
    """Return the files of the messages in Postfix's queue."""
    return box.run(f"cd /var/spool/postfix && find {QUEUES} -type f -printf '/%p\\n'").stdout


def digests(box, *paths):
    """Return the SHA-256 of each file in these files and directories."""
    return box.run(["find", *paths, "-type", "f", "-exec", "sha256sum", "{}", "+"]).stdout


def kept(box, settings):
    """Return the existing files of mail and keys, with their digests."""
    paths = (*KEYS, settings["mailboxes_dir"])
    return sorted(digests(box, *paths).splitlines())


@pytest.fixture(scope="module")
def cleaned(box, account):
    """The state before the removal of the relay, the prediction, and the result."""
    settings = json.loads(box.run("cat /etc/chatmail/relay.json").stdout)
    before = {
        "mail and keys": kept(box, settings),
        "originals": digests(box, "/var/backups/chatmail").replace("/var/backups/chatmail", ""),
        "settings": settings,
    }
    predicted = changing(box.run(f"{CLEAN} test=True --out=json"))
    before["predicted"], before["done"] = predicted, changing(box.run(f"{CLEAN} --out=json"))
    return before


def test_first_converge_on_a_machine_that_never_synced_a_module_succeeds(first_runs):
    predicted, first = first_runs
    assert {name for name, state in states(predicted).items() if state["result"] is False} == set()
    assert first.returncode == 0, first.stdout[-6000:]
    assert failed(states(first)) == set()


def test_first_converge_does_what_the_dry_run_said(first_runs):
    """Once, six states were missing: the kept originals, and the reload of Postfix."""
    predicted, first = first_runs
    assert changing(predicted) == changing(first)


def test_daemon_runs_with_our_configuration_from_its_first_start_on(box):
    """Debian's packages start the daemons at once, which are open to all with stock settings."""
    instance = box.run("ls -d /etc/systemd/system/postfix@-.service.d", check=False)
    # coturn's unit names our file from before the package on.
    configurations = {
        "unbound": "/etc/unbound/unbound.conf",
        "dovecot": "/etc/dovecot/dovecot.conf",
        "postfix" if instance.returncode else "postfix@-": "/etc/postfix/main.cf",
        "nginx": "/etc/nginx/nginx.conf",
    }
    for unit, path in configurations.items():
        # A start that was skipped is in the journal, too.
        started = box.run(
            f"journalctl -o short-unix UNIT={unit}.service JOB_TYPE=start | grep ': Started '"
        ).stdout.splitlines()
        assert started, unit
        assert float(started[0].split()[0]) > float(box.run(f"stat -c %.6Z {path}").stdout), unit


def test_second_converge_finds_nothing_to_do(box):
    assert not_as_expected(states(box.run(f"{APPLY} --out=json"))) == {}
    assert not_as_expected(states(box.run(f"{APPLY} test=True --out=json"))) == {}


def test_converge_with_a_changed_setting_does_what_the_dry_run_said(box):
    # Postfix, Dovecot, nginx, our services and the pages use this setting.
    setting = {"mail_domain": box.domain, "max_message_size": "20M"}
    predicted = changed(apply(box, "chatmail", **setting, test=True))
    done = changed(apply(box, "chatmail", **setting))
    back = changed(apply(box, "chatmail", test=True))
    report = apply(box, "chatmail")
    assert failed(report) == set()
    assert predicted == done == back == changed(report)
    assert {"chatmail postfix service", "chatmail-filter service"} < done


def test_clean_does_what_the_dry_run_said(cleaned):
    assert cleaned["predicted"] == cleaned["done"]


def test_clean_leaves_no_unit_and_no_listener(box, cleaned):
    assert box.run("ls -d /etc/systemd/system/chatmail*", check=False).stdout == ""
    assert box.run("systemctl list-units --all --plain --no-legend 'chatmail*'").stdout == ""
    found = box.run(["systemctl", "is-active", *DAEMONS], check=False).stdout.split()
    assert found == ["inactive"] * len(DAEMONS)
    found = box.run(["systemctl", "is-enabled", *DAEMONS], check=False).stdout.split()
    assert found == ["disabled"] * len(DAEMONS)
    assert box.run("ss -Hltnu").stdout == ""


def test_clean_gives_the_original_configurations_back(box, cleaned):
    assert box.run(OURS, check=False).stdout == ""
    found = digests(box, *REPLACED).splitlines()
    assert sorted(found) == sorted(cleaned["originals"].splitlines())
    assert "TZ=" not in box.run("cat /etc/environment").stdout


def test_postfix_of_a_cleaned_machine_takes_local_mail_only(box, cleaned):
    box.run("systemctl start postfix")
    try:
        box.run("echo hello | sendmail root")
        box.wait_until(lambda: "hello" in box.run("cat /var/mail/root", check=False).stdout)
        listeners = box.run("ss -Hltn sport = :25").stdout.split("\n")
        assert {line.split()[3] for line in listeners if line} == {"127.0.0.1:25", "[::1]:25"}
    finally:
        box.run("systemctl stop postfix")


def test_clean_keeps_mail_and_keys_and_their_users(box, cleaned):
    assert kept(box, cleaned["settings"]) == cleaned["mail and keys"]
    assert len(queued(box).splitlines()) == 1
    assert box.run(["id", "-nu", "vmail"]).stdout == "vmail\n"


def test_second_clean_changes_nothing(box, cleaned):
    assert not_as_expected(states(box.run(f"{CLEAN} --out=json"))) == {}
    assert not_as_expected(states(box.run(f"{CLEAN} test=True --out=json"))) == {}


def test_clean_leaves_alone_what_somebody_else_set_up_since(box, cleaned):
    box.run("systemctl enable --now nginx")
    try:
        assert not_as_expected(states(box.run(f"{CLEAN} --out=json"))) == {}
        assert box.run("systemctl is-active nginx").stdout == "active\n"
    finally:
        box.run("systemctl disable --now nginx")


def test_relay_that_comes_back_has_its_accounts_mail_and_keys(box, account, cleaned):
    box.run(APPLY)
    assert messages(box, account) == 1
    keys = [line for line in cleaned["mail and keys"] if " /etc/" in line]
    assert sorted(digests(box, *KEYS).splitlines()) == keys
    assert not_as_expected(states(box.run(f"{APPLY} --out=json"))) == {}


def test_purge_removes_mail_keys_and_users(box, account, cleaned):
    box.run(APPLY)
    assert changing(box.run(f"{PURGE} test=True --out=json")) == changing(
        box.run(f"{PURGE} --out=json")
    )
    assert queued(box) == ""
    for path in ("/home/vmail", "/etc/chatmail"):
        assert box.run(["test", "-e", path], check=False).returncode == 1
    for user in USERS:
        assert box.run(["id", user], check=False).returncode == 1
        assert box.run(["getent", "group", user], check=False).returncode == 2
    assert box.run(["getent", "group", "chatmail-dkim"], check=False).returncode == 2
    nobodys = "find /etc /usr/local /var /home -xdev '(' -nouser -o -nogroup ')'"
    assert box.run(nobodys).stdout == ""
    assert not_as_expected(states(box.run(f"{PURGE} --out=json"))) == {}
