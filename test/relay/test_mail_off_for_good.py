"""`chatmail_move.off` keeps mail off on a machine, whatever its pillar says."""

import smtplib
import socket

import pytest
from relay.client import imap, new_account, smtp
from support.converging import APPLY, changing, not_as_expected, states

MAIL_PORTS = (25, 143, 465, 587, 993)
REASON = "this relay moved to another machine"


@pytest.fixture(scope="module")
def off(relay):
    """The relay with mail off, and on again afterwards.

    It has an account, the results, and a session that began before.
    """
    account = new_account(relay)
    session = smtp(relay, account)
    try:
        done = relay.salt("chatmail_move.off", REASON)
        yield account, done, changing(relay.run(f"{APPLY} --out=json")), session
    finally:
        relay.salt("chatmail_move.on")
        relay.run(APPLY)


def test_off_stops_mail_at_once(relay, off):
    _account, done, *_ = off
    assert (done["mail_off"], done["changed"]) == (REASON, True)
    for port in MAIL_PORTS:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((relay.domain, port), timeout=10)


def test_off_ends_a_session_that_goes_on(off):
    """On Debian 13, Postfix once waited for the end of each session, and did nothing else."""
    with pytest.raises(smtplib.SMTPServerDisconnected):
        off[3].noop()
    assert off[1]["seconds"] < 60


def test_converge_afterwards_writes_only_the_settings(relay, off):
    [state] = off[2]
    assert "_|-chatmail settings of the services_|-" in state


def test_scheduled_converge_changes_nothing(relay, off):
    assert not_as_expected(states(relay.run(f"{APPLY} --out=json"))) == {}
    active = relay.run("systemctl is-active postfix dovecot", check=False).stdout.split()
    enabled = relay.run("systemctl is-enabled postfix dovecot", check=False).stdout.split()
    assert (active, enabled) == (["inactive"] * 2, ["disabled"] * 2)


def test_status_and_health_say_why(relay, off):
    assert relay.salt("chatmail_relay.status")["mail_off"] == REASON
    health = relay.salt("chatmail_relay.health", "offline=True")
    units = {step["name"]: step for step in health["steps"]}["units"]
    assert units["result"] is True
    assert REASON in units["comment"]


def test_on_brings_mail_back(relay, off):
    account, *_ = off
    done = relay.salt("chatmail_move.on")
    assert (done["mail_off"], done["changed"]) == (None, True)
    imap(relay, account).logout()
    smtp(relay, account).quit()
    relay.run(APPLY)
    assert not_as_expected(states(relay.run(f"{APPLY} --out=json"))) == {}
    relay.salt("chatmail_move.off", REASON)
