"""Two relays, one of each Debian release, exchange mail by HTTPS, or by SMTP if HTTPS fails."""

import contextlib
import time

import pytest
from relay.client import encrypted, imap, new_account, smtp

# No machine has this address. Packets to it vanish, as behind some firewalls.
SILENT = "198.51.100.250"


@pytest.fixture(scope="module")
def alice(relay):
    return new_account(relay)


@pytest.fixture(scope="module")
def bob(other_relay):
    return new_account(other_relay)


def send(relay, account, recipient, message_id, size=100):
    message = encrypted(account.address, recipient, size, Message_ID=message_id)
    with smtp(relay, account) as connection:
        connection.sendmail(account.address, [recipient], message)


def headers(relay, account):
    """Return the header of each message in the INBOX."""
    with imap(relay, account) as connection:
        connection.select("INBOX", readonly=True)
        _, data = connection.uid("fetch", "1:*", "(BODY.PEEK[HEADER])")
        return [part[1].decode() for part in data if isinstance(part, tuple)]


def arrived(relay, account, message_id):
    """Return how often the message is in the INBOX."""
    return sum(message_id in header for header in headers(relay, account))


def await_arrival(relay, account, message_id, seconds=20):
    relay.wait_until(lambda: arrived(relay, account, message_id), seconds)


def way_in(relay, message_id):
    """Return how a message came to a relay: by `mxdeliv` (HTTPS) or `smtpd`."""
    log = relay.run("journalctl --no-pager --output=cat --identifier=postfix/cleanup").stdout
    line = next(line for line in log.splitlines() if message_id in line)
    queue_id = line.split(":")[0]
    came = relay.run(f"journalctl --no-pager --output=short | grep '{queue_id}: client='").stdout
    return "mxdeliv" if "postfix/mxdeliv/smtpd" in came else "smtpd"


@contextlib.contextmanager
def blocked(relay, other_relay, port):
    """Block connections from one relay to a port of the other."""
    rule = f"to {other_relay.ip} ipproto tcp dport {port} prohibit"
    address6 = (
        other_relay.run("ip -6 -o addr show dev host0 scope global").stdout.split()[3].split("/")[0]
    )
    rule6 = f"to {address6} ipproto tcp dport {port} prohibit"
    relay.run(f"ip rule add {rule} && ip -6 rule add {rule6}")
    try:
        yield
    finally:
        relay.run(f"ip rule del {rule}; ip -6 rule del {rule6}")


def test_message_arrives_by_https_both_ways(relay, other_relay, alice, bob):
    send(relay, alice, bob.address, "<there@test>")
    await_arrival(other_relay, bob, "<there@test>")
    assert way_in(other_relay, "<there@test>") == "mxdeliv"
    send(other_relay, bob, alice.address, "<back@test>")
    await_arrival(relay, alice, "<back@test>")
    assert way_in(relay, "<back@test>") == "mxdeliv"


def test_stored_message_has_no_trace_of_its_way(other_relay, bob):
    header = headers(other_relay, bob)[0].lower()
    for name in ("received:", "dkim-signature:", "authentication-results:"):
        assert name not in header


def test_message_arrives_by_smtp_where_443_is_blocked(relay, other_relay, alice, bob):
    with blocked(relay, other_relay, 443):
        # A kept connection would have to time out first.
        relay.run("systemctl restart chatmail-transport")
        send(relay, alice, bob.address, "<smtp@test>")
        await_arrival(other_relay, bob, "<smtp@test>")
    assert way_in(other_relay, "<smtp@test>") == "smtpd"


def test_message_arrives_by_https_where_25_is_blocked(relay, other_relay, alice, bob):
    with blocked(relay, other_relay, 25):
        send(relay, alice, bob.address, "<https@test>")
        await_arrival(other_relay, bob, "<https@test>")
    assert way_in(other_relay, "<https@test>") == "mxdeliv"


def test_large_message_arrives_by_https_alone(relay, other_relay, alice, bob):
    with blocked(relay, other_relay, 25):
        send(relay, alice, bob.address, "<large@test>", size=11_000_000)
        await_arrival(other_relay, bob, "<large@test>", 60)
    assert way_in(other_relay, "<large@test>") == "mxdeliv"


def is_queued(relay, recipient):
    return recipient in relay.run("postqueue -p").stdout


def test_relay_that_was_down_gets_its_mail_once(relay, other_relay, alice, bob):
    other_relay.run("systemctl stop nginx postfix")
    for number in range(3):
        send(relay, alice, bob.address, f"<down{number}@test>")
    relay.wait_until(lambda: is_queued(relay, bob.address))
    other_relay.run("systemctl start nginx postfix")
    for number in range(3):
        await_arrival(other_relay, bob, f"<down{number}@test>", 120)
    relay.wait_until(lambda: not is_queued(relay, bob.address))
    assert [arrived(other_relay, bob, f"<down{number}@test>") for number in range(3)] == [1, 1, 1]


def test_mail_waits_for_https_where_25_is_blocked(relay, other_relay, alice, bob):
    with blocked(relay, other_relay, 25):
        other_relay.run("systemctl stop nginx")
        send(relay, alice, bob.address, "<late@test>")
        relay.wait_until(lambda: is_queued(relay, bob.address))
        other_relay.run("systemctl start nginx")
        relay.run("postqueue -f")  # The next try would be a minute later.
        await_arrival(other_relay, bob, "<late@test>", 120)
    assert arrived(other_relay, bob, "<late@test>") == 1


def test_bounce_comes_back_signed(relay, other_relay, alice):
    """Mail for a mailbox that accepts none bounces, and the bounce passes our own DKIM check."""
    full = new_account(other_relay)
    settings = other_relay.salt("chatmail_relay.settings")
    # The filter refuses a blocked address at once, but does not read the file. Dovecot reads it.
    other_relay.run(f"echo no hash > {settings['mailboxes_dir']}/{full.address}/password")
    send(relay, alice, full.address, "<bounces@test>")

    def bounce():
        found = [each for each in headers(relay, alice) if "mailer-daemon" in each.lower()]
        return found and found[0]

    assert "multipart/report" in relay.wait_until(bounce, 30)


def test_unknown_address_at_the_other_relay_bounces(relay, other_relay, alice):
    before = len(headers(relay, alice))
    send(relay, alice, f"nobody000@{other_relay.domain}", "<unknown@test>")
    relay.wait_until(lambda: len(headers(relay, alice)) > before, 30)


def test_black_holes_do_not_delay_others(relay, other_relay, bob):
    """A hundred messages go to dead hosts, and one message goes to a person who waits."""
    senders = [new_account(relay) for _ in range(10)]
    for number in range(10):
        relay.dns_set(f"hole{number}.example", "A", SILENT)
    for sender in senders:
        for number in range(10):
            send(relay, sender, f"x@hole{number}.example", f"<hole{number}@test>")
    carol = new_account(relay)
    before = time.monotonic()
    send(relay, carol, bob.address, "<alive@test>")
    await_arrival(other_relay, bob, "<alive@test>")
    undisturbed = 1.0  # the longest time, with the looks at the INBOX
    assert time.monotonic() - before < undisturbed + 1.0
    relay.run("postsuper -d ALL deferred; postsuper -d ALL")


def test_dead_recipients_keep_the_message_from_nobody(relay, other_relay, alice, bob):
    """HTTPS has one answer for all. Once, two deleted members kept a message from a whole group.

    Once, more than 50 recipients came in several transactions, and the others got several copies.
    """
    dead = [f"gone{number:05}@{other_relay.domain}" for number in range(59)]
    recipients = [*dead[:30], bob.address, *dead[30:]]
    message = encrypted(alice.address, bob.address, Message_ID="<group@test>")
    with blocked(relay, other_relay, 25), smtp(relay, alice) as connection:
        connection.sendmail(alice.address, recipients, message)
        await_arrival(other_relay, bob, "<group@test>")
        relay.wait_until(lambda: not is_queued(relay, bob.address))
    assert way_in(other_relay, "<group@test>") == "mxdeliv"
    log = other_relay.run("journalctl --no-pager --output=cat --identifier=postfix/cleanup").stdout
    assert log.count("message-id=<group@test>") == 1

    def bounces():
        """Return the bounces that name all deleted addresses."""
        with imap(relay, alice) as connection:
            connection.select("INBOX", readonly=True)
            _, data = connection.uid("fetch", "1:*", "(BODY.PEEK[])")
            found = [part[1].decode() for part in data if isinstance(part, tuple)]
        return [each for each in found if all(address in each for address in dead)]

    [bounce] = relay.wait_until(bounces)
    assert "multipart/report" in bounce
    assert arrived(other_relay, bob, "<group@test>") == 1
