"""`mail: false` stops and disables Postfix and Dovecot, and changes nothing else."""

import imaplib
import socket
import ssl
import urllib.request

import pytest
from relay.client import imap, new_account, new_credentials, smtp, tls_context
from support.converging import APPLY, changing, not_as_expected, states

OFF = APPLY + """ pillar='{"chatmail": {"mail": false}}'"""
MAIL_PORTS = (25, 143, 465, 587, 993)
OTHERS = ("nginx", "unbound", "chatmail-accounts", "chatmail-filter")


def units(relay, question):
    """Return systemctl's answers about Postfix and Dovecot to `is-active` or `is-enabled`."""
    return relay.run(f"systemctl {question} postfix dovecot", check=False).stdout.split()


@pytest.fixture(scope="module")
def off(relay):
    """The relay with mail off, and on again afterwards. It has the prediction and the result."""
    account = new_account(relay)
    session = imap(relay, account)
    session.select("INBOX")
    try:
        predicted = changing(relay.run(f"{OFF} test=True --out=json"))
        done = changing(relay.run(f"{OFF} --out=json"))
        yield account, session, predicted, done
    finally:
        relay.run(APPLY)


def test_mail_off_does_what_the_dry_run_said(off):
    _, _, predicted, done = off
    assert predicted == done
    assert len(done) > 1


def test_mail_off_stops_postfix_and_dovecot_also_at_the_next_boot(relay, off):
    assert units(relay, "is-active") == ["inactive", "inactive"]
    assert units(relay, "is-enabled") == ["disabled", "disabled"]


@pytest.mark.parametrize("port", MAIL_PORTS)
def test_mail_off_leaves_nothing_listening_for_mail(relay, off, port):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((relay.domain, port), timeout=10)


@pytest.mark.parametrize("protocol", ["imap", "smtp"])
def test_mail_off_ends_mail_on_443_too(relay, off, protocol):
    context = tls_context()
    context.set_alpn_protocols([protocol])
    with (
        socket.create_connection((relay.domain, 443), timeout=10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname=relay.domain)


def test_mail_off_ends_sessions_that_were_open(off):
    """A mailbox must not change while an operator copies it."""
    _, session, _, _ = off
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        session.noop()


def test_mail_off_leaves_the_other_services_and_the_pages(relay, off):
    active = relay.run(["systemctl", "is-active", *OTHERS]).stdout.split()
    assert active == ["active"] * len(OTHERS)
    assert new_credentials(relay)
    with urllib.request.urlopen(
        f"https://{relay.domain}/", timeout=10, context=tls_context()
    ) as page:
        assert page.status == 200


def test_mail_off_twice_changes_nothing(relay, off):
    assert not_as_expected(states(relay.run(f"{OFF} --out=json"))) == {}


def test_mail_on_again_brings_back_both_and_their_accounts(relay, off):
    account, *_ = off
    predicted = changing(relay.run(f"{APPLY} test=True --out=json"))
    assert predicted == changing(relay.run(f"{APPLY} --out=json"))
    assert units(relay, "is-active") == ["active", "active"]
    assert units(relay, "is-enabled") == ["enabled", "enabled"]
    imap(relay, account).logout()
    smtp(relay, account).quit()
    assert not_as_expected(states(relay.run(f"{APPLY} --out=json"))) == {}
