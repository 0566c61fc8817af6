"""METADATA, the last login, and the push after a message (contract, sections 3, 8, 9)."""

import base64
import hashlib
import hmac
import json
import sys
import time
from pathlib import Path

import pytest
from deltachat_rpc_client import DeltaChat, Rpc
from relay.client import imap, new_account, new_credentials
from relay.notifications import notification_service
from support.devices import get_metadata, new_device, send, server_entry, set_metadata

DAY = 24 * 3600
# The program is beside the interpreter, also when its environment is not activated.
CORE = Path(sys.executable).with_name("deltachat-rpc-server")


@pytest.fixture(scope="module")
def service(relay):
    """The stand-in for the notification service, which this relay uses until the tests end."""
    relay.needs_lab("a notification service beside it")
    with notification_service(relay.domain) as service:
        pillar = json.dumps({"chatmail": {"notification_url": service.url}})
        relay.salt("state.apply", "chatmail.services", f"pillar={pillar}")
        yield service
        relay.salt("state.apply", "chatmail.services")


@pytest.fixture(autouse=True)
def healthy(request):
    """Each test begins with a notification service that works."""
    if "service" in request.fixturenames:
        request.getfixturevalue("service").status = 200


@pytest.fixture(scope="module")
def bob(relay):
    """An address that sends messages to the others."""
    return new_account(relay)


@pytest.fixture
def alice(relay):
    """A new address without METADATA."""
    return new_account(relay)


def devices(relay, account):
    """Return the tokens that an address has."""
    with imap(relay, account) as connection:
        return (get_metadata(connection, "INBOX", "/private/devicetoken") or "").split(" ")


def test_each_device_adds_its_token_and_all_are_answered(relay, alice, bob):
    with imap(relay, alice) as connection:
        assert get_metadata(connection, "INBOX", "/private/devicetoken") is None
    first, second = new_device(relay, alice), new_device(relay, alice)
    assert devices(relay, alice) == [first, second]
    assert first not in devices(relay, bob)


def test_token_of_several_words_is_refused(relay, alice):
    with imap(relay, alice) as connection:
        assert "NO" in set_metadata(connection, "INBOX", "/private/devicetoken", "two words")
        assert get_metadata(connection, "INBOX", "/private/devicetoken") is None


def test_entries_that_nobody_keeps_are_refused(relay, alice):
    with imap(relay, alice) as connection:
        assert "NO" in set_metadata(connection, "INBOX", "/private/comment", "hello")
        assert get_metadata(connection, "INBOX", "/private/comment") is None


@pytest.mark.parametrize("mailbox", ["INBOX", '""'])
@pytest.mark.parametrize("entry", ["messagenew", "vendor/vendor.dovecot/pvt/messagenew"])
def test_client_cannot_pretend_that_a_message_came(relay, alice, mailbox, entry):
    """Otherwise it could send any text to the notification service, at any rate."""
    with imap(relay, alice) as connection:
        assert "NO" in set_metadata(connection, mailbox, f"/private/{entry}", "")


def test_client_is_told_the_limits_and_services_of_the_relay(relay, alice):
    settings = json.loads(relay.run("cat /etc/chatmail/relay.json").stdout)
    iroh = settings["iroh_relay"]
    scheme = "http" if settings["tls_mode"] == "self_signed" else "https"
    expected = f"{scheme}://{relay.domain}" if iroh is None else iroh or None
    assert server_entry(relay, alice, "irohrelay") == expected
    assert server_entry(relay, alice, "maxsmtprecipients") == "1000"
    admin = settings["privacy_mail"] and f"mailto:{settings['privacy_mail']}"
    with imap(relay, alice) as connection:
        assert get_metadata(connection, '""', "/shared/admin") == admin


def test_client_is_told_the_operators_app_versions(relay, alice):
    path = "/etc/chatmail/appversions.json"
    before = relay.run(f"test ! -e {path}", check=False).returncode == 0
    assert before, f"{path} is somebody's: this test would change it"
    shipped = json.loads(server_entry(relay, alice, "appversions"))
    assert shipped["clients"][0]["clientId"] == "deltachat"
    source = {"sourceId": "web", "versionInteger": 7, "versionString": "1", "downloadUrl": ""}
    own = {"clients": [{"clientId": "ours", "sources": [source]}]}
    try:
        relay.run(f"cat > {path}", input=json.dumps(own, indent=1))
        assert json.loads(server_entry(relay, alice, "appversions")) == own
        relay.run(f"cat > {path}", input='{"android": "2.1"}')
        relay.run("systemctl restart chatmail-accounts")
        assert json.loads(server_entry(relay, alice, "appversions")) == own
    finally:
        relay.run(f"rm {path}")
    assert json.loads(server_entry(relay, alice, "appversions")) == shipped


@pytest.fixture
def turn_secret(relay):
    """The secret of TURN credentials: the relay's own, or one for this test."""
    path = "/etc/chatmail/turn-secret"
    found = relay.run(["cat", path], check=False)
    if found.returncode == 0:
        yield found.stdout.strip()
        return
    relay.run(f"install -m 0640 -g vmail /dev/null {path} && cat > {path}", input="of this test\n")
    yield "of this test"
    relay.run(["rm", path])


def turn_password(secret, user):
    digest = hmac.digest(secret.encode(), user.encode(), hashlib.sha1)
    return base64.b64encode(digest).decode()


def test_turn_credentials_are_made_of_the_relays_secret(relay, alice, turn_secret):
    host, port, user, password = server_entry(relay, alice, "turn").split(":")
    assert (host, port) == (relay.domain, "3478")
    assert int(user) > time.time() + DAY
    assert password == turn_password(turn_secret, user)


def test_delta_chat_reads_the_turn_credentials(relay, turn_secret, tmp_path):
    relay.needs_dns("Delta Chat, which gets the TURN server's name,")
    with Rpc(str(tmp_path / "accounts"), str(CORE)) as rpc:
        account = DeltaChat(rpc).add_account()
        address, password = new_credentials(relay)
        account.add_transport_from_qr(f"dclogin:{address}?p={password}&v=1&ic=3")
        account.bring_online()
        mine = relay.wait_until(
            lambda: [each for each in account.ice_servers() if str(each["urls"]).count(relay.ip)]
        )
        assert mine[0]["credential"] == turn_password(turn_secret, mine[0]["username"])


def test_last_login_is_known_to_the_day_and_no_finer(relay, alice):
    home = json.loads(relay.run("cat /etc/chatmail/relay.json").stdout)["mailboxes_dir"]
    password = f"{home}/{alice.address}/password"

    def last_login():
        return int(relay.run(["stat", "-c", "%Y", password]).stdout)

    def is_today():
        return last_login() == int(time.time()) // DAY * DAY

    # The address was created a moment ago. This time is not stored either.
    relay.wait_until(is_today, seconds=5)
    relay.run(["touch", "-d", "5 days ago", password])
    imap(relay, alice).logout()
    relay.wait_until(is_today, seconds=5)


def test_message_wakes_every_device_of_its_recipient_within_a_second(relay, service, alice, bob):
    tokens = [new_device(relay, alice), new_device(relay, alice)]
    sent = send(relay, bob, alice)
    for token in tokens:
        push = service.wait_for(token)[0]
        assert push.when - sent < 1
    assert [len(service.pushes(token)) for token in tokens] == [1, 1]


def test_message_to_oneself_wakes_nobody(relay, service, alice, bob):
    token = new_device(relay, alice)
    send(relay, alice, alice)
    # Only the message after it causes a push.
    send(relay, bob, alice)
    service.wait_for(token)
    relay.wait_until(lambda: arrived(relay, alice) == 2)
    assert len(service.pushes(token)) == 1


def arrived(relay, account):
    """Return the number of messages in an inbox."""
    with imap(relay, account) as connection:
        return int(connection.select("INBOX", readonly=True)[1][0])


def test_device_that_is_gone_is_forgotten(relay, service, alice, bob):
    gone = new_device(relay, alice)
    service.status = 410
    send(relay, bob, alice)
    service.wait_for(gone)
    relay.wait_until(lambda: devices(relay, alice) == [""])
    service.status = 200
    there = new_device(relay, alice)
    send(relay, bob, alice)
    service.wait_for(there)
    assert len(service.pushes(gone)) == 1


def test_push_is_tried_again_after_8_seconds_and_after_a_restart(relay, service, alice, bob):
    token = new_device(relay, alice)
    service.status = 500
    send(relay, bob, alice)
    first, second = service.wait_for(token, 2, seconds=15)
    assert 7.9 < second.when - first.when < 10
    # The next try would be after 64 seconds. The restart makes it come at once.
    service.status = 200
    relay.run("systemctl restart chatmail-accounts")
    assert service.wait_for(token, 3)[2].status == 200
    relay.wait_until(lambda: not relay.run("ls /var/lib/chatmail-metadata/pending").stdout)
    relay.run("systemctl restart chatmail-accounts")
    assert len(service.pushes(token)) == 3


def test_push_survives_the_service_being_killed(relay, service, alice, bob):
    token = new_device(relay, alice)
    service.status = 500
    send(relay, bob, alice)
    service.wait_for(token)
    service.status = 200
    relay.run("systemctl kill --signal=KILL chatmail-accounts")
    assert service.wait_for(token, 2, seconds=10)[1].status == 200


def test_message_arrives_while_nobody_takes_notice_of_it(relay, alice, bob):
    """Dovecot cannot report the message, but still delivers it at once."""
    relay.run("systemctl stop chatmail-accounts")
    try:
        sent = send(relay, bob, alice)
        relay.wait_until(lambda: arrived(relay, alice) == 1, seconds=5)
        assert time.time() - sent < 2
    finally:
        relay.run("systemctl start chatmail-accounts")


def test_no_token_is_in_the_journal(relay, service, alice, bob):
    token = new_device(relay, alice)
    service.status = 500
    send(relay, bob, alice)
    service.wait_for(token)
    with imap(relay, alice) as connection:
        set_metadata(connection, "INBOX", "/private/devicetoken", f"{token} and more")
    journal = relay.run("journalctl --no-pager --output=cat --since=-1h").stdout
    assert "notification service" in journal
    assert token not in journal
    assert alice.address not in relay.run("journalctl -u chatmail-accounts --no-pager").stdout
