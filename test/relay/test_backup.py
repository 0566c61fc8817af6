"""A relay is backed up and destroyed, and comes back on a machine of the other Debian release."""

import contextlib
import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from relay.client import Account, imap
from relay.machines import LAB, Relay, lab
from relay.notifications import NotificationService, notification_service
from support import kept_mail
from support.backup import make_key, seal, unseal
from support.converging import APPLY, not_as_expected, states
from support.devices import new_device, send
from support.logins import ask, mailboxes_dir, try_imap, try_smtp

OTHER_RELEASE = {"debian-12": "debian-13", "debian-13": "debian-12"}
# Any address of the lab's network leads there.
IN_THE_LAB = "198.51.100.10"
ARCHIVE, KEY = "/root/backup.age", "/run/backup-key.txt"
# All of these have the same content on both machines.
KEYS = (
    "find -L /etc/chatmail/dkim /etc/chatmail/tls/*.pem /etc/chatmail/turn-secret "
    "/etc/letsencrypt/accounts /etc/letsencrypt/live/chatmail -name README -prune -o "
    "-type f -exec sha256sum {} +"
)
# All files of the machine but logs, caches, and what programs write while they run.
OWN_FILES = """
cd / && find etc home root usr/local var/backups var/lib var/mail var/spool \\
    -path var/lib/apt -prune -o -path var/lib/systemd -prune -o \\
    -type f ! -name backup.age -printf '%m %U:%G %p ' -exec sha256sum {} \\; -o \\
    -type l -printf '%p -> %l\\n' -o -type d -printf '%m %U:%G %p\\n' | sort
"""


class Restored(NamedTuple):
    """What a test needs of the old relay, and the new one."""

    relay: Relay
    accounts: list[Account]
    blocked: Account
    mailbox: Account
    device: str
    token: str
    digests: set[str]
    selectors: dict
    records: list
    service: NotificationService
    result: dict
    refused: dict[str, tuple]
    mail: dict
    validities: list[bytes]
    archive_with_mail: Path


def digests(box):
    return set(box.run(KEYS).stdout.splitlines())


def fetch(box, path, target):
    with open(target, "wb") as file:
        subprocess.run([LAB, "run", box.name, "--", "cat", path], stdout=file, check=True)


def put(box, source, path):
    with open(source, "rb") as file:
        command = [LAB, "run", box.name, "--", "sh", "-c", f"umask 077; cat > {path}"]
        subprocess.run(command, stdin=file, check=True)


def call(box, function, *arguments):
    """Call a function with all that Salt can log; return the result, and the whole output."""
    command = ["salt-call", "--local", "--out=json", "--log-level=debug", function, *arguments]
    done = box.run(command)
    return json.loads(done.stdout)["local"], done.stdout + done.stderr


def refusals(box, archive, key, directory):
    """Let a machine restore archives that are not its own or not whole.

    Returns {kind of archive: (exit code, what was said, the lines of OWN_FILES that changed)}.
    """
    recipient = subprocess.run(["age-keygen", "-y", key], capture_output=True, check=True).stdout
    members = unseal(archive, key)
    others = {"truncated": archive.read_bytes()[:-4000]}

    def seal_with(name, recipient, **head):
        first = json.dumps({**json.loads(members["backup.json"]), **head}).encode()
        seal(directory / name, recipient, list({**members, "backup.json": first}.items()))
        others[name] = (directory / name).read_bytes()

    seal_with("of an older format", recipient.decode().strip(), format=0)
    seal_with("of another relay", recipient.decode().strip(), domain="other.example")
    (directory / "other").mkdir()
    seal_with("for another key", make_key(directory / "other")[1])
    before, found = own_files(box), {}
    for name, content in others.items():
        (directory / "wrong.age").write_bytes(content)
        put(box, directory / "wrong.age", ARCHIVE)
        arguments = ["salt-call", "--local", "chatmail_backup.restore", ARCHIVE, KEY]
        done = box.run(arguments, check=False)
        said = " ".join((done.stdout + done.stderr).split())
        found[name] = done.returncode, said, before ^ own_files(box)
    return found


def own_files(box):
    """Return a line for each file, directory and link of the machine's own."""
    return set(box.run(OWN_FILES).stdout.splitlines())


def hash_of(box, account):
    """Return the hash of a password, as the relay stores it."""
    return box.run(["cat", f"{mailboxes_dir(box)}/{account.address}/password"]).stdout


@pytest.fixture(scope="module")
def restored(release, empty_boxes, tmp_path_factory):
    """A relay on a machine of the other release, from the archive of one that is gone."""
    directory = tmp_path_factory.mktemp("backup")
    key, recipient = make_key(directory)
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(notification_service(IN_THE_LAB))
        pillar = {
            "registration": "invite",
            "notification_url": service.url,
            "backup_recipients": [recipient],
        }
        (directory / "pillar.sls").write_text(json.dumps({"chatmail": pillar}))

        def converged(release, domain):
            options = ("--domain", domain, "--pillar", directory / "pillar.sls", "--packages")
            box = empty_boxes(*options, release=release)
            lab("converge", box.name, capture_output=False)
            return box

        domain = f"backup{directory.stat().st_ino}.signed.example"
        old = converged(release, domain)
        token = old.salt("chatmail_accounts.invite", "uses=6")["link"].partition("#")[2]
        answers = [ask(old, token)[1] for _ in range(4)]
        *accounts, mailbox, blocked = [Account(each["email"], each["password"]) for each in answers]
        device = new_device(old, accounts[0])
        old.salt("chatmail_accounts.block", blocked.address)
        old.salt("chatmail_dkim.rotate", "wait=0")
        made, output = call(old, "chatmail_backup.create")
        fetch(old, made["path"], directory / "backup.age")
        kept_mail.fill(old, mailbox, accounts[0])
        mail = kept_mail.read(old, mailbox), kept_mail.validities(old, mailbox)
        with_mail = old.salt("chatmail_backup.create", "mail=True", "path=/root/mail.age")
        fetch(old, with_mail["path"], directory / "mail.age")
        records = [
            (each["name"].rstrip("."), each["type"], each["expected"])
            for each in old.salt("chatmail_dns.check", check=False)["records"]
            if each["need"] == "required"
            and (each["status"] == "missing" or "._domainkey." in each["name"])
        ]
        before = digests(old), old.salt("chatmail_dkim.list")
        hashes = [hash_of(old, account) for account in accounts]
        secret = old.run("cat /etc/chatmail/turn-secret").stdout.strip()
        lab("down", old.name)

        new = converged(OTHER_RELEASE[release], domain)
        put(new, key, KEY)
        refused = refusals(new, directory / "backup.age", key, directory)
        put(new, directory / "backup.age", ARCHIVE)
        fresh = digests(new)
        # The chain of the authority is the same on both machines.
        assert not {line for line in fresh & before[0] if "priv" in line or "dkim" in line}
        announced, more = call(
            new, "chatmail_backup.restore", ARCHIVE, KEY, f"sha256={made['sha256']}", "test=True"
        )
        assert digests(new) == fresh
        result, rest = call(new, "chatmail_backup.restore", ARCHIVE, KEY)
        assert announced == result
        output += more + rest
        for confidential in (secret, device, *hashes, *(each.address for each in accounts)):
            assert confidential.strip()
            assert confidential not in output
        kept = device, token, *before, records, service, result, refused, *mail
        yield Restored(new, accounts, blocked, mailbox, *kept, directory / "mail.age")


@pytest.mark.parametrize(
    ("archive", "text"),
    [
        ("truncated", "age says: "),
        ("of an older format", "has format 0, expected 1"),
        ("of another relay", "is of 'other.example', and this relay is"),
        ("for another key", "no identity matched"),
    ],
)
def test_wrong_archive_was_refused_with_no_file_changed(restored, archive, text):
    code, said, changed = restored.refused[archive]
    assert code != 0
    assert text in said
    assert "Nothing was changed" in said
    assert changed == set()


def test_restore_says_what_came_back(restored):
    assert restored.result["addresses"] == 4
    assert restored.result["invitations"] == 1
    assert restored.result["settings_differ"] == []


def test_every_key_is_the_same_as_on_the_old_machine(restored):
    assert digests(restored.relay) == restored.digests


def test_rotation_of_the_dkim_keys_goes_on(restored):
    found = restored.relay.salt("chatmail_dkim.list")
    assert found == restored.selectors
    assert {each["status"] for each in found.values()} == {"signing", "next"}


def test_every_password_logs_in_and_a_block_stays(restored):
    for account in (*restored.accounts, restored.mailbox):
        assert try_imap(restored.relay, *account)
        assert try_smtp(restored.relay, *account)
    assert not try_imap(restored.relay, *restored.blocked)
    restored.relay.salt("chatmail_accounts.unblock", restored.blocked.address)
    assert try_imap(restored.relay, *restored.blocked)


def test_device_is_woken_by_its_token(restored):
    alice, bob = restored.accounts
    send(restored.relay, bob, alice)
    restored.service.wait_for(restored.device)


def test_invitation_has_the_uses_that_were_left(restored):
    statuses = [ask(restored.relay, restored.token)[0] for _ in range(3)]
    assert statuses == [200, 200, 403]


def test_others_verify_the_signatures_by_the_records_of_the_old_machine(restored):
    relay = restored.relay
    # The lab has published the keys that the new machine made for itself.
    for name, kind, [value] in restored.records:
        relay.dns_set(name, kind, value)
    relay.run("systemctl restart unbound")
    found = relay.salt("chatmail_relay.health", check=False)
    failed = {each["name"]: each["comment"] for each in found["steps"] if each["result"] is False}
    assert failed == {}
    passed = {each["name"] for each in found["steps"] if each["result"]}
    assert {"dkim", "message by port 25", "message by /mxdeliv", "turn"} <= passed
    for name, kind, _values in restored.records:
        relay.dns_del(name, kind)


def test_next_converge_finds_nothing_to_do(restored):
    for test in ("", "test=True"):
        report = states(restored.relay.run(f"{APPLY} --out=json {test}", check=False))
        assert not_as_expected(report) == {}


def test_second_restore_is_refused(restored):
    done = restored.relay.run(
        ["salt-call", "--local", "chatmail_backup.restore", ARCHIVE, KEY], check=False
    )
    assert done.returncode != 0
    assert "this relay has addresses already" in done.stdout + done.stderr


def test_restored_relay_can_be_backed_up(restored):
    made = restored.relay.salt("chatmail_backup.create", "mail=True", "keep=1")
    assert made["messages"] >= 1
    assert restored.relay.salt("chatmail_backup.verify", made["path"])["sha256"] == made["sha256"]
    mode = restored.relay.run(["stat", "-c", "%a %U:%G", made["path"]]).stdout.strip()
    assert mode == "600 root:root"


def test_mail_comes_back_once_with_its_flags_from_the_other_dovecot(restored):
    """The archive with mail brings an address back that was deleted here meanwhile."""
    relay, mailbox = restored.relay, restored.mailbox
    assert sum(kept_mail.read(relay, mailbox)["INBOX"].values()) == 0
    relay.salt("chatmail_accounts.delete", mailbox.address)
    put(relay, restored.archive_with_mail, ARCHIVE)
    result = relay.salt("chatmail_backup.restore", ARCHIVE, KEY, "merge=True")
    assert (result["addresses"], result["kept"]) == (1, 3)
    found = kept_mail.read(relay, mailbox)
    assert found == restored.mail
    assert set(found) == set(kept_mail.FOLDERS)
    # Clients forget the numbers of the old machine, and Dovecot gives no number twice.
    later = kept_mail.validities(relay, mailbox)
    assert not set(later) & set(restored.validities)
    send(relay, restored.accounts[0], mailbox)
    with imap(relay, mailbox) as connection:
        expected = sum(found["INBOX"].values()) + 1
        relay.wait_until(lambda: kept_mail.count(connection, "INBOX") == expected)
