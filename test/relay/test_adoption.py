"""A machine of cmdeploy is taken over in place, and put back (Debian 12).

test/support/cmdeploy_machine.py lays the machine out. The tests of this file share it and depend on
their order: refused, planned, taken over, used, undone.
"""

import imaplib
import json
from types import SimpleNamespace

import pytest
import yaml
from relay.client import Account, encrypted, imap, smtp
from relay.handshakes import connect, context
from support import cmdeploy_machine
from support.converging import APPLY, not_as_expected, states

START = "salt-call --local --out=json chatmail_adopt.start"
KEPT = "/etc /usr/local/lib/chatmaild /usr/local/bin /usr/lib/cgi-bin /home /var/lib/acme"
OLD_UNITS = (
    *("doveauth", "lastlogin", "filtermail", "filtermail-incoming", "turnserver"),
    *("acmetool-redirector", "acmetool-reconcile", "chatmail-fsreport"),
)
MESSAGES = 3


def files(box, paths=KEPT):
    """Return the files of the machine that a take-over may touch, with owner, size and time."""
    listing = f"find {paths} -printf '%p %u %m %y %s %T@\\n' | grep -v '^/etc/salt' | sort"
    return box.run(listing, check=False).stdout.splitlines()


def client(box, name=0):
    """Return an old user's account."""
    address = f"{cmdeploy_machine.ADDRESSES[name]}@{box.domain}"
    return Account(address, cmdeploy_machine.PASSWORD)


def download(box, name=0):
    """Return what a client has of its INBOX: UIDVALIDITY, and {UID: (flags, message)}."""
    with imap(box, client(box, name)) as connection:
        connection.select("INBOX", readonly=True)
        validity = connection.response("UIDVALIDITY")[1][0]
        _, answers = connection.uid("FETCH", "1:*", "(UID FLAGS BODY.PEEK[])")
    parts = [answer for answer in answers if isinstance(answer, tuple)]
    return validity, {head.split(b"UID ")[1].split()[0]: (head, body) for head, body in parts}


def bodies(downloaded):
    validity, messages = downloaded
    return validity, {uid: body for uid, (_, body) in messages.items()}


@pytest.fixture(scope="module")
def machine(release, request):
    """A machine of cmdeploy with mail, and what its clients have downloaded."""
    if release != "debian-12":
        pytest.skip("cmdeploy sets up Debian 12 only")
    box = request.getfixturevalue("idle_domain_box")
    mailboxes = cmdeploy_machine.lay_out(box)
    for number in range(MESSAGES):
        message = encrypted("someone@example.org", client(box).address, 2000 * (number + 1))
        cmdeploy_machine.deliver(box, client(box).address, message)
    with imap(box, client(box)) as connection:
        connection.select("INBOX")
        connection.uid("STORE", "2", "+FLAGS", "(\\Seen)")
    # This message waits in the queue until the relay delivers it.
    box.run("postconf -e defer_transports=lmtp && systemctl reload postfix")
    queued = encrypted("queued@example.org", client(box, 1).address).decode()
    box.run(["sendmail", "-f", "queued@example.org", client(box, 1).address], input=queued)
    box.wait_until(lambda: "/deferred/" in box.run("find /var/spool/postfix -type f").stdout)
    # Both compressions are in one mailbox later: gzip now, zstd afterwards.
    stored = f"find {mailboxes} -path '*/cur/*' -o -path '*/new/*' | xargs head -qc 2"
    assert box.run(f"{stored} | od -An -tx1").stdout.split() == ["1f", "8b"] * MESSAGES
    assert box.run("salt-call --local state.apply chatmail.program", check=False).returncode == 0
    return SimpleNamespace(box=box, mailboxes=mailboxes, downloaded=download(box))


def serial(box):
    with connect(box, 993, context(verify=False)) as connection:
        return connection.getpeercert(binary_form=True)


REFUSED = {
    "half a run": ("touch /usr/sbin/policy-rc.d", "rm /usr/sbin/policy-rc.d", "policy-rc.d exists"),
    "a move": (
        "systemctl disable --now dovecot",
        "systemctl enable --now dovecot",
        "dovecot.service is disabled and inactive, expected enabled and active",
    ),
    "a foreign program": (
        "systemctl stop acmetool-redirector && systemd-run --unit=somebody "
        "python3 -m http.server --directory /run 80 && "
        "timeout 20 sh -c 'until ss -Hltn sport = :80 | grep -q .; do sleep 0.1; done'",
        "systemctl stop somebody && systemctl start acmetool-redirector",
        "port 80/tcp is held by python3 (somebody.service)",
    ),
    "no key": (
        "mv /etc/dkimkeys/opendkim.private /root",
        "mv /root/opendkim.private /etc/dkimkeys",
        "/etc/dkimkeys/opendkim.private: found No such file",
    ),
    "no certificate": (
        "mv /var/lib/acme/certs/abc /root",
        "mv /root/abc /var/lib/acme/certs",
        "certificate: /var/lib/acme/live/",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_machine_that_is_half_of_one_is_refused_by_name_and_not_changed(machine, reason):
    spoil, mend, sentence = REFUSED[reason]
    machine.box.run(spoil)
    try:
        before = files(machine.box)
        planned = machine.box.salt("chatmail_adopt.plan", check=False)
        assert planned["state"] == "refused"
        assert [each for each in planned["problems"] if sentence in each], planned["problems"]
        done = machine.box.run(START, check=False)
        assert done.returncode != 0
        assert "nothing was changed" in done.stderr + done.stdout
        assert sentence in done.stderr + done.stdout
        assert files(machine.box) == before
    finally:
        machine.box.run(mend)


def test_machine_that_cmdeploy_did_not_set_up_is_refused_by_name(machine):
    path = "/usr/local/lib/chatmaild/chatmail.ini"
    machine.box.run(f"mv {path} {path}.away")
    try:
        done = machine.box.run("salt-call --local chatmail_adopt.plan", check=False)
        assert f"{path} cannot be read" in done.stderr + done.stdout
        assert done.returncode != 0
    finally:
        machine.box.run(f"mv {path}.away {path}")


def test_pillar_of_another_machine_is_refused_by_name(machine):
    pillar = "/srv/pillar/relay.sls"
    own = machine.box.run(["cat", pillar]).stdout
    other = json.dumps({"chatmail": {"mail_domain": "other.example.org"}})
    machine.box.run(["tee", pillar], input=other)
    try:
        before = files(machine.box)
        done = machine.box.run(START, check=False)
        assert "pillar chatmail:mail_domain is 'other.example.org'" in done.stderr + done.stdout
        assert files(machine.box) == before
    finally:
        machine.box.run(["tee", pillar], input=own)


def test_converge_before_the_take_over_is_refused_and_changes_nothing(machine):
    """A highstate of a master may come at any time. A new relay would have new keys."""
    paths = f"{KEPT} /usr/local/lib/chatmail"
    before = files(machine.box, paths)
    done = machine.box.run(f"{APPLY} --out=json", check=False)
    told = [state["comment"] for state in states(done).values() if state["result"] is False]
    assert [comment for comment in told if "chatmail_adopt.start" in comment]
    assert files(machine.box, paths) == before


@pytest.fixture(scope="module")
def planned(machine):
    before = files(machine.box)
    planned = machine.box.salt("chatmail_adopt.plan")
    assert files(machine.box) == before
    return planned


def test_plan_prints_the_pillar_and_what_has_no_equivalent(machine, planned):
    assert (planned["state"], planned["problems"]) == ("ready", [])
    assert yaml.safe_load(planned["pillar"])["chatmail"] == {
        "mail_domain": machine.box.domain,
        "delete_mails_after": 40,
        "max_imap_connections": 50000,
        "max_smtp_connections": 5000,
    }
    assert list(planned["without_equivalent"]) == ["passthrough_recipients"]


def test_plan_counts_what_it_found(planned):
    found = planned["found"]
    expected = {"addresses": 3, "unprotected": 1, "old_tokens": 1, "notifications": 1, "queued": 1}
    assert {name: found[name] for name in expected} == expected
    assert found["dovecot"] == "1:2.3.21+dfsg1-3"
    assert found["dovecot_of_debian"].startswith("1:2.3.19")


def test_plan_tells_about_caa_and_what_is_removed(planned):
    assert [each for each in planned["to_do"] if each.startswith("CAA: ")]
    removed = set(planned["removed"])
    assert {"/etc/systemd/system/doveauth.service", "/etc/cron.d/chatmail-metrics"} <= removed


@pytest.fixture(scope="module")
def taken(machine, planned):
    """The machine after the take-over, with what it was before."""
    box = machine.box
    box.run(
        ["install", "-m", "0600", "/dev/stdin", "/srv/pillar/relay.sls"], input=planned["pillar"]
    )
    before = files(box, "/etc/postfix /etc/dovecot /etc/systemd/system /usr/local")
    certificate = serial(box)
    started = json.loads(box.run(START).stdout)["local"]
    done = box.run(f"{APPLY} --out=json", check=False)
    failed = {
        name: state["comment"] for name, state in states(done).items() if state["result"] is False
    }
    assert failed == {}
    return SimpleNamespace(**vars(machine), before=before, certificate=certificate, started=started)


def test_take_over_tells_the_seconds_without_mail(taken, record_property):
    state = taken.box.salt("chatmail_adopt.plan")
    assert state["state"] == "serving"
    record_property("seconds_without_mail", state["seconds_without_mail"])
    print(f"seconds without mail: {state['seconds_without_mail']}")
    assert state["seconds_without_mail"] > 0


def test_old_client_logs_in_and_downloads_nothing_again(taken):
    assert bodies(download(taken.box)) == bodies(taken.downloaded)
    seen = [uid for uid, (head, _) in download(taken.box)[1].items() if b"\\Seen" in head]
    assert seen == [b"2"]
    wrong = Account(client(taken.box).address, "another password")
    with pytest.raises(imaplib.IMAP4.error):
        imap(taken.box, wrong)


def test_message_from_the_old_queue_arrives(taken):
    # It would wait for the pause that the old Postfix has chosen.
    taken.box.run("postqueue -f")
    taken.box.wait_until(lambda: len(download(taken.box, 1)[1]) == 1)


def test_message_goes_each_way(taken):
    for sender, recipient in ((0, 2), (2, 0)):
        before = len(download(taken.box, recipient)[1])
        here, there = client(taken.box, sender), client(taken.box, recipient)
        with smtp(taken.box, here) as connection:
            connection.sendmail(
                here.address, [there.address], encrypted(here.address, there.address)
            )
        taken.box.wait_until(
            lambda recipient=recipient, before=before: (
                len(download(taken.box, recipient)[1]) == before + 1
            )
        )


def test_device_tokens_of_the_old_form_are_kept(taken):
    with imap(taken.box, client(taken.box)) as connection:
        connection.xatom("GETMETADATA", "INBOX", "(/private/devicetoken)")
        answer = connection.response("METADATA")[1]
    assert all(token.encode() in str(answer).encode() for token in cmdeploy_machine.TOKENS)


def test_notification_that_waited_is_in_the_queue_of_the_relay(taken):
    """The notification service is out of reach, so it stays there."""
    found = taken.box.run("cat /var/lib/chatmail-metadata/pending/*", check=False).stdout
    assert cmdeploy_machine.TOKENS[0] in found


def test_address_without_protection_has_none_now(taken):
    found = taken.box.run(f"ls -d {taken.mailboxes}/*/enforceE2EEincoming").stdout.split()
    assert len(found) == 2
    assert not [path for path in found if cmdeploy_machine.ADDRESSES[1] in path]


def test_key_signs_under_its_selector(taken):
    assert "opendkim" in taken.box.salt("chatmail_relay.status")["dkim_selectors"]
    public = "openssl pkey -pubout -in {}"
    old, new = "/etc/dkimkeys/opendkim.private", "/etc/chatmail/dkim/opendkim.pem"
    assert taken.box.run(public.format(old)).stdout == taken.box.run(public.format(new)).stdout


def test_certificate_stays_until_it_is_renewed(taken):
    assert serial(taken.box) == taken.certificate


def test_old_units_timers_cron_and_pins_are_gone(taken):
    box = taken.box
    units = box.run("systemctl list-units --all --plain --no-legend").stdout
    units += box.run("systemctl list-unit-files --no-legend").stdout
    assert [unit for unit in OLD_UNITS if f"\n{unit}." in f"\n{units}"] == []
    assert box.run("ls /etc/systemd/system/*/10_restart.conf", check=False).stdout == ""
    assert "chatmail-metrics" not in box.run("ls /etc/cron.d").stdout
    assert box.run("ls /etc/apt/preferences.d").stdout == ""
    assert box.run("ps -eo args | grep -c '^/usr/bin/sleep infinity'", check=False).stdout == "0\n"
    assert box.run("systemctl is-active opendkim fcgiwrap", check=False).stdout.split() == [
        "inactive",
        "inactive",
    ]


def test_second_converge_finds_nothing_to_do(taken):
    assert not_as_expected(states(taken.box.run(f"{APPLY} --out=json", check=False))) == {}


@pytest.fixture(scope="module")
def undone(taken):
    taken.box.run("salt-call --local chatmail_adopt.undo")
    return taken


def test_undo_puts_the_old_machine_back(undone):
    box = undone.box
    version = box.run("dpkg-query -W -f '${Version}' dovecot-core").stdout
    assert version == "1:2.3.21+dfsg1-3"
    after = files(box, "/etc/postfix /etc/dovecot /etc/systemd/system /usr/local")
    # A directory's time and the links that systemctl makes again may be new.
    assert stable(after) == stable(undone.before)
    active = ("doveauth", "filtermail", "postfix", "dovecot", "nginx", "acmetool-redirector")
    assert box.run(["systemctl", "is-active", *active], check=False).stdout.split() == [
        "active"
    ] * len(active)


def stable(listing):
    """Return the files, without directories, links and the relay's own program."""
    lines = [line.rsplit(" ", 4) for line in listing]
    return sorted(
        " ".join(line)
        for line in lines
        if line[2] == "f" and "/usr/local/lib/chatmail/" not in line[0]
    )


def test_client_of_the_old_machine_has_its_mail_after_undo(undone):
    validity, messages = bodies(download(undone.box))
    old_validity, old = bodies(undone.downloaded)
    assert validity == old_validity
    assert {uid: messages[uid] for uid in old} == old
    assert len(messages) == MESSAGES + 1


def test_second_plan_after_undo_is_as_the_first(undone, planned):
    again = undone.box.salt("chatmail_adopt.plan")
    assert (again["state"], again["pillar"]) == ("ready", planned["pillar"])


KILL = r"""
salt-call --local chatmail_adopt.start >/dev/null 2>&1 & salt=$!
journal=/var/backups/chatmail-adoption/journal.json
timeout 300 sh -c "until grep -qs '\"stopped\"' $journal; do sleep 0.02; done"
kill -9 $salt $(pgrep -f "chatmaild[.]adopt[.]commands")
"""


def test_start_that_was_killed_while_it_stopped_the_mail_service_goes_on_and_is_undone(undone):
    box = undone.box
    box.run(KILL)
    assert "remove" not in box.salt("chatmail_adopt.plan")["done"]
    refused = states(box.run(f"{APPLY} --out=json", check=False))
    assert [each for each in refused.values() if "chatmail_adopt.start" in each["comment"]]
    box.run(START)
    assert box.salt("chatmail_adopt.plan")["next"] == "salt-call state.apply chatmail"
    box.run("salt-call --local chatmail_adopt.undo")
    after = files(box, "/etc/postfix /etc/dovecot /etc/systemd/system /usr/local")
    assert stable(after) == stable(undone.before)
    assert box.run("systemctl is-active postfix dovecot doveauth").stdout.split() == ["active"] * 3
