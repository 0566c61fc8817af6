"""New mail replaces old mail, and an unused address is removed completely (section 10)."""

import contextlib
import json
import re
import time

import pytest
from relay.client import dashed_account, encrypted, imap, new_account, smtp
from support.devices import new_device, send
from support.idle_client import IdleClient

DAY = 24 * 3600
MIB = 1 << 20
QUOTA = 20 * MIB
CLEARTEXT = 370_000  # bytes; half a megabyte as a message


@pytest.fixture
def small_mailboxes(relay):
    """A relay with mailboxes of 20 MB."""
    pillar = {"chatmail": {"max_mailbox_size": "20M", "max_message_size": "2M"}}
    relay.salt("state.apply", "chatmail.dovecot", f"pillar={json.dumps(pillar)}")
    yield
    relay.salt("state.apply", "chatmail.dovecot")


def home_of(relay, account):
    settings = json.loads(relay.run("cat /etc/chatmail/relay.json").stdout)
    return f"{settings['mailboxes_dir']}/{account.address}"


def seed(relay, account, count, age):
    """Put messages into an inbox that look as if they were delivered `age` seconds ago."""
    home, arrival = home_of(relay, account), int(time.time() - age)
    message = encrypted(account.address, account.address, CLEARTEXT).decode()
    size = len(message)
    relay.run(
        f"cd '{home}' && mkdir -p new cur tmp && cat > /tmp/seed && for n in $(seq {count}); do "
        f"name=cur/{arrival}.M${{n}}P1.seed,S={size},W={size}:2,S; cp /tmp/seed $name; "
        f"touch -d @{arrival} $name; done; chown -R vmail: .; rm -f maildirsize /tmp/seed",
        input=message,
    )
    return size


def sizes(relay, account):
    """Return the size of each message for the quota, by its time of arrival."""
    names = relay.run(f"ls '{home_of(relay, account)}/cur' '{home_of(relay, account)}/new'").stdout
    return [(int(a), int(s)) for a, s in re.findall(r"^(\d+)\..*?,S=(\d+)", names, re.MULTILINE)]


def quota(relay, account):
    """Return Dovecot's own figure, in KiB."""
    shown = relay.run(["doveadm", "-f", "json", "quota", "get", "-u", account.address]).stdout
    [storage] = [each for each in json.loads(shown) if each["type"] == "STORAGE"]
    return int(storage["value"])


def test_full_mailbox_makes_room_without_a_bounce_and_tells_who_idles(relay, small_mailboxes):
    sender, recipient = new_account(relay), dashed_account(relay)
    size = seed(relay, recipient, 28, 2 * DAY)
    assert 0.65 * QUOTA < 28 * size < 0.7 * QUOTA
    client = IdleClient(relay, recipient)
    client.idle()
    # The client sees each message before the next one comes, so all of them were accepted. Only the
    # message that grows the mailbox past 75 % removes others.
    with smtp(relay, sender) as connection:
        for number in range(1, 6):
            message = encrypted(sender.address, recipient.address, CLEARTEXT)
            connection.sendmail(sender.address, [recipient.address], message)
            awaited = "EXPUNGE" if (28 + number) * size > 0.75 * QUOTA else f"{28 + number} EXISTS"
            seen = []
            while not (seen and seen[-1].endswith(awaited)):
                seen.append(client.line())
            if awaited == "EXPUNGE":
                break
            assert "EXPUNGE" not in "".join(seen)
    assert awaited == "EXPUNGE"

    relay.wait_until(lambda: sum(s for _, s in sizes(relay, recipient)) <= 0.7 * QUOTA)
    left = sizes(relay, recipient)
    expunged = 28 + number - len(left)
    # No more messages than needed were removed, and all new ones are there.
    assert sum(s for _, s in left) > 0.7 * QUOTA - size
    assert sum(arrival > time.time() - DAY for arrival, _ in left) == number
    relay.wait_until(
        lambda: abs(quota(relay, recipient) - sum(s for _, s in left) / 1024) < 1, seconds=5
    )
    while sum("EXPUNGE" in line for line in seen) < expunged:
        seen.append(client.line())
    client.done()
    client.close()
    with imap(relay, sender) as connection:
        assert connection.select()[1] == [b"0"]  # no bounce
    log = relay.run("journalctl -u dovecot --since=-1min -p warning -o cat").stdout
    assert "quota-warning" not in log


def test_systemd_knows_the_units_as_they_are_on_disk(relay):
    """Once, systemd kept the old units after an upgrade: Salt reloads only units that it starts."""
    unit = "/etc/systemd/system/chatmail-expire.service"
    relay.run(f"echo '# older' >> {unit} && systemctl daemon-reload")
    relay.salt("state.apply", "chatmail.retention")
    shown = relay.run("systemctl show --property=NeedDaemonReload --value chatmail-expire.service")
    assert shown.stdout.strip() == "no"


def test_unused_address_goes_with_every_trace(relay):
    """The address has mail, a device, and a push that the service has not accepted yet."""
    sender, account = new_account(relay), new_account(relay)
    new_device(relay, account)
    with imap(relay, account) as connection:
        connection.create("Archive")
    send(relay, sender, account)
    pending = "/var/lib/chatmail-metadata/pending"
    relay.wait_until(lambda: account.address in relay.run(f"cat {pending}/*", check=False).stdout)
    relay.run(["touch", "-d", "91 days ago", f"{home_of(relay, account)}/password"])

    relay.run("systemctl start chatmail-expire.service")

    # Names and contents on disk. The kernel's file systems and the volatile journal are left out.
    not_disk = "-path /proc -prune -o -path /sys -prune -o -path /run/log/journal -prune -o"
    found = relay.run(
        f"find / {not_disk} -name '*{account.address}*' -print; "
        f"find / {not_disk} -type f -print0 | xargs -0 grep -lF -- '{account.address}' || true"
    ).stdout
    assert found == ""
    journal = relay.run("journalctl -u chatmail-expire -o cat --since=-1min").stdout
    assert "1 inactive mailboxes" in journal
    with contextlib.closing(imap(relay, sender)) as connection:
        assert connection.select()[0] == "OK"  # the address in use stays
