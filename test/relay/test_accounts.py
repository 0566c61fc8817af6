"""An operator sees, blocks and deletes addresses, and stops the creation of new ones."""

import json
import smtplib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from relay.client import dashed_account, encrypted, imap, new_account, new_credentials, smtp
from support.idle_client import IdleClient, live_imap_processes
from support.logins import mailboxes, mailboxes_dir, try_imap, try_smtp


def send(connection, sender, recipient):
    message = encrypted(sender.address, recipient.address)
    connection.sendmail(sender.address, [recipient.address], message)


def when_closed(client):
    """Return when (time.time()) the relay closes a connection."""
    client.socket.settimeout(60)
    while client.socket.recv(65536):
        pass
    return time.time()


@pytest.fixture
def sessions(relay):
    """An address with three sessions: hibernated, live in IDLE, and live.

    The second value is a future for each session: the time at which the relay closes it.
    """
    account = new_account(relay)
    clients = [IdleClient(relay, account) for _ in range(3)]
    hibernate(relay, clients[0])
    clients[1].idle()
    with ThreadPoolExecutor(3) as pool:
        yield account, [pool.submit(when_closed, client) for client in clients]
    for client in clients:
        client.close()


def hibernate(relay, client):
    """Begin IDLE; return when Dovecot has hibernated the client."""
    live = live_imap_processes(relay)
    client.idle()
    relay.wait_until(lambda: live_imap_processes(relay) < live)


def test_block_cuts_all_sessions_within_a_second_and_those_of_nobody_else(relay, sessions):
    """Dovecot 2.3 cannot kick a hibernated client: the process serves other clients, too."""
    account, closings = sessions
    other = new_account(relay)
    bystander = IdleClient(relay, other)
    hibernate(relay, bystander)
    with smtp(relay, account) as sending:
        result = relay.salt("chatmail_accounts.block", account.address)
        assert result == {"changed": True, "disconnected": 3}
        with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
            send(sending, account, other)
        [(code, text)] = refused.value.recipients.values()
        assert (code, text[:6]) == (550, b"5.7.1 ")
    password = f"{mailboxes_dir(relay)}/{account.address}/password"
    blocked = float(relay.run(["stat", "-c", "%.6Z", password]).stdout) - relay.clock_ahead()
    assert max(closing.result() for closing in closings) - blocked < 1
    assert not try_imap(relay, *account)
    assert not try_smtp(relay, *account)
    bystander.done()
    bystander.close()
    assert anvil_seconds_after_hibernation(relay) < 0.5


def anvil_seconds_after_hibernation(relay):
    """Return the processor time that Dovecot's anvil takes in a second without imap-hibernate.

    In 2.4.1, anvil used a whole CPU after a `doveadm kick` of a hibernated client, until a restart.
    """
    measure = "cut -d ' ' -f 14,15 /proc/$(pgrep -o -x anvil)/stat"
    ticks = relay.run(
        f"pkill -x imap-hibernate; {measure}; sleep 1; {measure}; getconf CLK_TCK"
    ).stdout.split()
    user, system, user_later, system_later, per_second = map(int, ticks)
    return (user_later + system_later - user - system) / per_second


def test_blocked_address_gets_no_mail_and_comes_back_as_it_was(relay):
    sender, account = new_account(relay), new_account(relay)
    with smtp(relay, sender) as connection:
        send(connection, sender, account)
        relay.wait_until(lambda: count(relay, account) == 1)
        relay.salt("chatmail_accounts.block", account.address)
        send(connection, sender, account)
    relay.wait_until(lambda: count(relay, sender) == 1)  # a bounce
    assert relay.salt("chatmail_accounts.info", account.address)["blocked"] is True
    assert relay.salt("chatmail_accounts.unblock", account.address) == {"changed": True}
    assert count(relay, account) == 1


def test_address_that_begins_with_a_dash_is_like_any_other(relay):
    """Once, Postfix read the address as an option of a command, and refused its mail."""
    account, other = dashed_account(relay), new_account(relay)
    with smtp(relay, account) as connection:
        send(connection, account, account)
        send(connection, account, other)
    with smtp(relay, other) as connection:
        send(connection, other, account)
    relay.wait_until(lambda: count(relay, account) == 2)
    relay.wait_until(lambda: count(relay, other) == 1)
    client = IdleClient(relay, account)
    result = relay.salt("chatmail_accounts.block", f"address={account.address}")
    assert result == {"changed": True, "disconnected": 1}
    client.close()
    relay.salt("chatmail_accounts.unblock", f"address={account.address}")
    assert count(relay, account) == 2


def count(relay, account):
    """Return the number of messages in an inbox."""
    with imap(relay, account) as connection:
        return int(connection.select("INBOX", readonly=True)[1][0])


def test_address_is_described_without_its_password(relay):
    account = new_account(relay)
    with smtp(relay, account) as connection:
        send(connection, account, account)
    relay.wait_until(lambda: count(relay, account) == 1)
    result = relay.salt("chatmail_accounts.info", account.address)
    today = relay.run("date -u +%F").stdout.strip()
    assert result["bytes"] > 100
    assert result == {
        "address": account.address,
        "blocked": False,
        "last_login": today,
        "messages": 1,
        "bytes": result["bytes"],
        "devices": 0,
    }
    assert account.address in relay.salt("chatmail_accounts.list")
    assert relay.salt("chatmail_accounts.count")["addresses"] == len(
        [name for name in mailboxes(relay) if "@" in name]
    )


def test_deleted_address_is_gone_with_mail_and_sessions(relay, sessions):
    account, closings = sessions
    with smtp(relay, account) as connection:
        send(connection, account, account)
    result = relay.salt("chatmail_accounts.delete", account.address)
    assert result["removed"] is True
    assert result["disconnected"] == 3
    assert max(closing.result() for closing in closings) <= time.time()
    assert account.address not in mailboxes(relay)
    assert relay.run(["find", "/", "-xdev", "-name", f"*{account.address}*"]).stdout == ""
    asked = ["salt-call", "--local", "chatmail_accounts.info", account.address]
    missing = relay.run(asked, check=False)
    assert missing.returncode != 0
    assert "does not exist" in missing.stderr


@pytest.mark.parametrize("address", ["../../etc/passwd", "abcdefghi@example.org", "*"])
def test_what_is_no_address_is_refused_by_every_function(relay, address):
    before = mailboxes(relay)
    done = relay.run(["salt-call", "--local", "chatmail_accounts.delete", address], check=False)
    assert done.returncode != 0
    assert "is no address of this relay" in done.stderr + done.stdout
    assert mailboxes(relay) == before


def test_nocreate_of_an_operator_outlives_a_converge(relay):
    old, new = new_account(relay), new_credentials(relay)
    assert relay.salt("chatmail_accounts.nocreate", "on") == {"nocreate": True, "changed": True}
    try:
        relay.salt("state.apply", "chatmail.host")
        assert not try_imap(relay, *new)
        assert try_imap(relay, *old)
        assert relay.salt("chatmail_relay.limits")["nocreate"] == {"value": True, "limit": False}
    finally:
        result = relay.salt("chatmail_accounts.nocreate", "off")
    assert result == {"nocreate": False, "changed": True}
    assert try_imap(relay, *new)


def test_status_shows_every_limit_with_its_value(relay):
    client = IdleClient(relay, new_account(relay))
    with smtp(relay, new_account(relay)):
        status = relay.salt("chatmail_relay.status")
    client.close()
    limits = status["limits"]
    settings = json.loads(relay.run("cat /etc/chatmail/relay.json").stdout)
    assert sorted(limits) == [
        "max_imap_connections",
        "max_load_1m",
        "max_registrations_per_hour",
        "max_smtp_connections",
        "max_smtp_connections_per_ip",
        "min_available_memory",
        "min_free_disk_space",
        "nocreate",
    ]
    for name, each in limits.items():
        assert each["limit"] == settings[name], name
        assert isinstance(each["value"], int | float), name
    assert limits["max_imap_connections"]["value"] >= 1
    assert limits["max_smtp_connections"]["value"] >= 1
    assert limits["max_smtp_connections_per_ip"]["value"] >= 1
    assert limits["max_registrations_per_hour"]["value"] >= 0  # high limit: falls at once
    assert status["registration"] == "open"
