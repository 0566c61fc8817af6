"""When any process dies, no accepted message is lost and no unencrypted one passes."""

import contextlib
import smtplib
import threading

import pytest
from relay.client import cleartext, encrypted, imap, new_account, smtp
from support.converging import APPLY, changing

SENDERS, MESSAGES = 20, 10  # a sender's burst is ten


def send_until_accepted(relay, account, recipient, number):
    """Send one message like a client: again after temporary failures, for at most a minute."""
    message = encrypted(account.address, recipient, Message_ID=f"<{number}@stream>")
    for _ in range(300):
        try:
            with smtp(relay, account) as connection:
                connection.sendmail(account.address, [recipient], message)
                return
        except smtplib.SMTPRecipientsRefused as error:
            refused = {code for code, _ in error.recipients.values()}
        except smtplib.SMTPResponseException as error:
            refused = {error.smtp_code}
        except (OSError, smtplib.SMTPServerDisconnected):
            refused = set()
        if any(code >= 500 for code in refused):
            pytest.fail(f"message {number} was refused for good: {refused}")
        relay.wait(0.2)
    pytest.fail(f"message {number} was not accepted within a minute")


def try_cleartext(relay, account, recipient, stop, accepted):
    """Try to send an unencrypted message again and again, until stop is set."""
    while not stop.is_set():
        with (
            contextlib.suppress(OSError, smtplib.SMTPException),
            smtp(relay, account) as connection,
        ):
            connection.sendmail(account.address, [recipient], cleartext(account.address, recipient))
            accepted.append(recipient)
        stop.wait(0.05)


def message_ids(relay, account):
    """Return the Message-IDs in the INBOX. A message that came twice is there twice."""
    with imap(relay, account) as connection:
        connection.select("INBOX", readonly=True)
        _, data = connection.uid("fetch", "1:*", "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
        return [
            part[1].split()[-1].decode()
            for part in data
            if isinstance(part, tuple) and part[1].strip()
        ]


def test_delivered_message_is_on_the_disk(relay):
    """Postfix has deleted its copy by then. Once, a power failure lost such messages."""
    assert relay.run("doveconf -h mail_fsync").stdout.strip() == "optimized"


def test_postfix_of_debian_12_that_an_upgrade_left_running_gives_way(relay):
    """Once, the old programs ran until a reboot, and systemd refused to restart the new unit."""
    if 'VERSION_ID="12"' in relay.run("cat /etc/os-release").stdout:
        pytest.skip("Debian 12's own unit for Postfix is right on Debian 12")
    relay.run("ln -s /etc/postfix /etc/postfix- && systemctl stop postfix")
    try:
        relay.run("systemctl start postfix@-")
    finally:
        relay.run("rm /etc/postfix-")
    changed = changing(relay.run(f"{APPLY} --out=json", check=False))
    assert any("unit of Debian 12 for postfix is stopped" in state for state in changed)
    assert relay.run("systemctl is-active postfix postfix@-", check=False).stdout.split() == [
        "active",
        "inactive",
    ]
    assert relay.run("systemctl show --value -p MainPID postfix").stdout.strip() != "0"
    assert changing(relay.run(f"{APPLY} --out=json", check=False)) == set()


OURS = ("chatmail-accounts", "chatmail-filter", "chatmail-transport")


@pytest.mark.parametrize("service", [*OURS, "dovecot", "postfix"])
def test_killing_a_service_during_a_stream_loses_nothing(relay, service):
    recipient = new_account(relay)
    senders = [new_account(relay) for _ in range(SENDERS)]
    attacker = new_account(relay)
    stop, slipped = threading.Event(), []
    attack = threading.Thread(
        target=try_cleartext, args=(relay, attacker, recipient.address, stop, slipped)
    )
    attack.start()
    try:
        for number in range(SENDERS * MESSAGES):
            if number % 50 == 25:
                relay.run(f"systemctl kill --signal=KILL {service}")
            send_until_accepted(relay, senders[number % SENDERS], recipient.address, number)
    finally:
        stop.set()
        attack.join()
    wanted = {f"<{number}@stream>" for number in range(SENDERS * MESSAGES)}
    relay.run("postqueue -f")
    relay.wait_until(lambda: wanted <= set(message_ids(relay, recipient)), seconds=90)
    assert slipped == []
    found = message_ids(relay, recipient)
    assert set(found) == wanted
    # Only a process that dies between delivery and reply may double a message.
    assert len(found) <= len(wanted) + 4


def test_reboot_brings_everything_back(relay):
    alice, bob = new_account(relay), new_account(relay)
    with smtp(relay, alice) as connection:
        connection.sendmail(
            alice.address,
            [bob.address],
            encrypted(alice.address, bob.address, Message_ID="<1@boot>"),
        )
    relay.wait_until(lambda: message_ids(relay, bob) == ["<1@boot>"], seconds=20)
    relay.reboot()
    assert relay.run("systemctl is-system-running --wait", check=False).stdout.strip() == "running"
    with smtp(relay, alice) as connection:
        connection.sendmail(
            alice.address,
            [bob.address],
            encrypted(alice.address, bob.address, Message_ID="<2@boot>"),
        )
    relay.wait_until(lambda: message_ids(relay, bob) == ["<1@boot>", "<2@boot>"], seconds=20)
