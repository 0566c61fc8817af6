"""Each client in IDLE hears of each message at once (the part dovecot_objects, section 8)."""

import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from relay.client import encrypted, new_account, smtp
from support.converging import apply, changed, failed
from support.dovecot_objects import path_of
from support.idle_client import IdleClient

OBJECT = path_of("imap")
# An account may send ten messages at once, and then one a second.
MESSAGES = 10
# Half of the 500 ms that stock Dovecot waits. The benchmark has the figures.
AT_ONCE = 0.250


class Conversation:
    """A sender, and a recipient with one or more devices, each with a connection in IDLE."""

    def __init__(self, relay, devices=1):
        self.sender, self.recipient = new_account(relay), new_account(relay)
        self.outbox = smtp(relay, self.sender)
        self.devices = [IdleClient(relay, self.recipient) for _ in range(devices)]
        for device in self.devices:
            device.socket.settimeout(10)
            device.idle()

    def send(self):
        """Send one message; return when the relay had accepted it."""
        message = encrypted(self.sender.address, self.recipient.address)
        self.outbox.sendmail(self.sender.address, self.recipient.address, message)
        return time.monotonic()

    def close(self):
        self.outbox.close()
        for device in self.devices:
            device.close()


@pytest.fixture
def conversation(relay):
    talk = Conversation(relay)
    yield talk
    talk.close()


def hear(device):
    """Wait for the notice, and then wait for the next message; return when the notice came."""
    device.wait_for_message()
    told = time.monotonic()
    device.done()
    device.idle()
    return told


def median_wait(talk, count):
    """Send messages to a client that has just come back to IDLE; return the median wait."""
    return statistics.median(-talk.send() + hear(talk.devices[0]) for _ in range(count))


def test_active_client_hears_at_once(relay, conversation):
    assert median_wait(conversation, MESSAGES) < AT_ONCE + relay.round_trip()


def test_no_notice_is_lost_at_any_moment(relay):
    """A client hibernates after a while in IDLE. A message may come at each moment of that."""

    def talk(seed):
        chance, talk = random.Random(seed), Conversation(relay, devices=1 + seed % 2)
        for _ in range(MESSAGES):
            time.sleep(chance.uniform(0, 3))  # this is the condition: any age of the IDLE
            talk.send()
            for device in talk.devices:
                hear(device)
        talk.close()
        return MESSAGES

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(talk, range(8))) == 8 * MESSAGES


def test_no_notice_is_lost_when_the_client_hibernates(relay):
    """Most messages of this test come within 50 ms before or after the client is handed over."""
    timeout = relay.run("doveconf -h imap_hibernate_timeout").stdout.split()[0]
    handover = float(timeout.removesuffix("s"))

    def talk(seed):
        chance, talk = random.Random(seed), Conversation(relay)
        for _ in range(MESSAGES):
            time.sleep(handover + chance.uniform(-0.05, 0.05))
            talk.send()
            hear(talk.devices[0])
        talk.close()
        return MESSAGES

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(talk, range(8))) == 8 * MESSAGES


def highest(lines):
    """Return the number of messages that these lines tell of."""
    return max((int(line.split()[1]) for line in lines if line.endswith(" EXISTS")), default=0)


def hear_all(device, heard, count):
    """Wait until the client has heard of `count` messages."""
    while heard < count:
        heard = max(heard, highest([device.line()]))
    assert heard == count


def test_burst_is_heard_of_to_the_last_message(conversation):
    """The notice of the last message must not be lost while the client reads the ones before."""
    for _ in range(MESSAGES):
        conversation.send()
    hear_all(conversation.devices[0], 0, MESSAGES)


def test_client_hears_of_a_message_that_comes_while_it_gives_a_command(conversation):
    [device] = conversation.devices
    for number in range(1, MESSAGES + 1):
        device.done()
        heard = []
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(conversation.send)
            while not sending.done():
                heard += device.command("UID FETCH 1:* (FLAGS)").splitlines()
        device.idle()
        hear_all(device, highest(heard), number)


@pytest.fixture
def changed_dovecot(relay):
    """A Dovecot whose imap calls other functions than the object replaces, as a later one may."""
    relay.run(
        "mv /usr/lib/dovecot/imap /usr/lib/dovecot/imap.stock &&"
        " printf '#!/bin/sh\\nexec /usr/lib/dovecot/imap.stock \"$@\"\\n' >/usr/lib/dovecot/imap &&"
        " chmod 755 /usr/lib/dovecot/imap"
    )
    yield
    relay.run("mv /usr/lib/dovecot/imap.stock /usr/lib/dovecot/imap")
    wait_for_object(relay, exists=True)


def wait_for_object(relay, *, exists):
    """Wait for the unit that looks at Dovecot whenever it changes."""
    condition = f"{'' if exists else '! '}test -e {OBJECT}"
    relay.run(f"timeout 60 sh -c 'until {condition}; do sleep 0.2; done'")


def status(relay):
    return relay.salt("chatmail_relay.status")["imap_notify"]


def test_dovecot_that_the_object_does_not_fit_runs_without_it(relay, changed_dovecot):
    wait_for_object(relay, exists=False)
    said = relay.run("journalctl --unit chatmail-dovecot-objects --since=-1min --output=cat").stdout
    assert "expected /usr/lib/dovecot/imap to call mailbox_watch_extract_notify_fd" in said
    assert "is missing" in status(relay)
    talk = Conversation(relay)
    talk.send()
    hear(talk.devices[0])  # the relay works
    talk.close()


def test_package_of_dovecot_that_comes_again_is_checked_again(relay):
    """An update brings new files. The object is checked against these, without Salt."""
    before = relay.run(f"stat --format=%i {OBJECT}").stdout
    relay.run("DEBIAN_FRONTEND=noninteractive apt-get install -qqy --reinstall dovecot-imapd")
    relay.run(f"timeout 60 sh -c 'while [ {before.strip()} = $(stat --format=%i {OBJECT}) ];"
              " do sleep 0.2; done'")  # fmt: skip
    assert status(relay).endswith("at once")
    assert changed(apply(relay, "chatmail.dovecot_objects", test=True)) == set()


@pytest.fixture
def no_compiler(relay):
    relay.run(f"rm {OBJECT.rpartition('/')[0]}/checked; mv /usr/bin/tcc /usr/bin/tcc.away")
    yield
    relay.run("mv /usr/bin/tcc.away /usr/bin/tcc")
    assert failed(apply(relay, "chatmail.dovecot_objects")) == set()
    assert status(relay).endswith("at once")


def test_converge_without_the_compiler_says_so_and_the_relay_works(relay, no_compiler):
    report = apply(relay, "chatmail")
    assert failed(report) == {"chatmail dovecot_objects are compiled"}
    [compiled] = [each for each in report.values() if each["result"] is False]
    assert "Install Debian's package tcc" in compiled["comment"]
    assert "is missing" in status(relay)
    talk = Conversation(relay)
    talk.send()
    hear(talk.devices[0])
    talk.close()


def test_relay_can_go_without_the_object(relay):
    try:
        report = apply(relay, "chatmail", mail_domain=relay.domain, imap_notify=False)
        assert failed(report) == set()
        assert status(relay).endswith("as the setting says")
        talk = Conversation(relay)
        talk.send()
        hear(talk.devices[0])
        talk.close()
    finally:
        assert failed(apply(relay, "chatmail")) == set()
    assert status(relay).endswith("at once")
