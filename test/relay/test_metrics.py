"""The metrics of a relay that sends, refuses, receives and deletes mail."""

import contextlib
import imaplib
import json
import re
import secrets
import smtplib
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from relay.client import Account, cleartext, encrypted, imap, new_account, smtp, tls_context
from relay.notifications import notification_service
from relay.relay_at_address import mxdeliv, other_relay, own_address
from support.converging import apply, failed, not_as_expected
from support.devices import new_device
from support.incoming_smtp import deliver, refusal

DOCS = Path(__file__).parents[2] / "docs"
PORT = 3903
# The states that depend on the setting.
PART = "chatmail.services,chatmail.metrics,chatmail.dovecot"
LEFT = (
    "ls -d /run/chatmail-metrics /run/dovecot/http /etc/systemd/system/chatmail-metrics.service"
    " /etc/systemd/system/chatmail-*.service.d/metrics.conf"
)


def nothing_is_there(relay):
    """Return whether the relay neither shows nor counts anything."""
    listening = relay.run("ss -Hlntp").stdout
    counting = relay.run("systemctl show --property=Environment 'chatmail-*.service'").stdout
    return (
        f":{PORT} " not in listening
        and "PROMETHEUS" not in counting
        and relay.run(LEFT, check=False).stdout == ""
    )


@pytest.fixture(scope="module")
def settings(relay):
    """The settings of a relay with metrics, and with a notification service of the test."""
    relay.needs_lab("a notification service beside it")
    with notification_service(relay.domain) as service:
        yield SimpleNamespace(
            service=service,
            pillar={"metrics_address": f"{relay.ip}:{PORT}", "notification_url": service.url},
        )


@pytest.fixture(scope="module")
def measured(relay, settings):
    """The relay with metrics, until the tests of this file end."""
    assert failed(apply(relay, PART, **settings.pillar)) == set()
    yield settings
    assert failed(apply(relay, PART)) == set()
    assert nothing_is_there(relay)
    assert not_as_expected(apply(relay, PART)) == {}


def scrape(relay, accept="text/plain"):
    """Return the answer of the endpoint as text."""
    url = f"http://{relay.ip}:{PORT}/metrics"
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def numbers(relay):
    """Return {series: number}, a series such as `chatmail_pushes_total sent`."""
    return {
        " ".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): (
            sample.value
        )
        for family in text_string_to_metric_families(scrape(relay))
        for sample in family.samples
    }


def moved(before, after):
    """Return the differences of the series that have changed."""
    return {
        name: after[name] - before.get(name, 0)
        for name in after
        if after[name] != before.get(name, 0)
    }


# Whatever the load is, it is above this limit.
NO_LOAD = """
import json
path = "/etc/chatmail/relay.json"
settings = json.load(open(path)) | {"max_load_1m": -1}
json.dump(settings, open(path, "w"))
"""


@contextlib.contextmanager
def no_new_addresses(relay):
    """Let the relay reject registrations."""
    restart = "systemctl restart chatmail-accounts"
    relay.run("cp -p /etc/chatmail/relay.json /root/")
    relay.run(["python3", "-c", NO_LOAD])
    relay.run(restart)
    try:
        yield
    finally:
        relay.run(f"cp -p /root/relay.json /etc/chatmail/ && {restart}")


def send(relay, account, recipient):
    with smtp(relay, account) as connection:
        message = encrypted(account.address, recipient)
        connection.sendmail(account.address, [recipient], message)


def forged(sender, recipient):
    return encrypted(recipient, recipient)


def test_nothing_is_told_or_counted_without_the_setting(relay):
    assert nothing_is_there(relay)


def test_second_run_with_metrics_changes_nothing(relay, measured):
    # The fixture left these out of the first run.
    assert failed(apply(relay, "chatmail", **measured.pillar)) == set()
    assert not_as_expected(apply(relay, "chatmail", **measured.pillar)) == {}
    assert not_as_expected(apply(relay, "chatmail", **measured.pillar, test=True)) == {}


def test_endpoint_is_nobody_and_listens_at_its_address_alone(relay, measured):
    pid = relay.run("systemctl show --value --property=MainPID chatmail-metrics").stdout.strip()
    owner = relay.run(f"ps -o user= -p {pid}").stdout.strip()
    assert owner not in ("root", "vmail", "www-data", "nobody")
    listening = relay.run(f"ss -Hlntup | grep 'pid={pid},'").stdout.splitlines()
    assert [line.split()[4] for line in listening] == [f"{relay.ip}:{PORT}"]
    assert relay.salt("chatmail_relay.status")["units"]["chatmail-metrics"] == "active"


def read_until(connection, start):
    """Read lines until one begins so. In between, a server may report messages at any time."""
    while not (line := connection.readline()).startswith(start):
        assert line, "the relay closed the connection"


@pytest.fixture(scope="module")
def day(relay, measured, tmp_path_factory):
    """Events on a relay, each once or twice, with the numbers before and after."""
    here = own_address(relay)
    before = numbers(relay)
    alice, bob = new_account(relay), new_account(relay)
    ci = Account(f"ci-{secrets.token_hex(3)}@{relay.domain}", "a-password-of-ci")
    imap(relay, ci).logout()
    with no_new_addresses(relay), contextlib.suppress(imaplib.IMAP4.error):
        imap(relay, Account(f"x{secrets.token_hex(4)}@{relay.domain}", "a-password")).logout()

    token = new_device(relay, bob)
    send(relay, alice, bob.address)
    measured.service.wait_for(token)
    measured.service.status = 410
    send(relay, alice, bob.address)
    measured.service.wait_for(token, 2)
    with smtp(relay, alice) as session:
        for wrong, code in ((cleartext, 523), (forged, 500)):
            message = wrong(alice.address, bob.address)
            assert refusal(session, alice.address, [bob.address], message)[0] == code

    with other_relay(here, tmp_path_factory.mktemp("peer")) as (https, other_smtp):
        send(relay, alice, f"x@[{here}]")
        relay.wait_until(lambda: https.posts)
        https.answers.append((503, "no"))
        send(relay, alice, f"x@[{here}]")
        relay.wait_until(lambda: other_smtp.mails)
    send(relay, alice, "x@nowhere.example")

    # A message that the relay itself has signed has a good signature.
    signed = https.posts[0][1]
    with smtplib.SMTP(relay.domain, 25, timeout=20) as connection:
        connection.starttls(context=tls_context())
        connection.sendmail(alice.address, [bob.address], signed)
    assert mxdeliv(relay, alice.address, bob.address, signed) == 200
    assert mxdeliv(relay, alice.address, f"nobody000@{relay.domain}", signed) == 400
    elsewhere = "someone@elsewhere.example"
    assert deliver(relay, elsewhere, bob.address, encrypted(elsewhere, bob.address))[0] == 554

    # No mail comes to this client, so only DONE wakes it.
    with imap(relay, ci) as connection:
        connection.select("INBOX")
        connection.send(b"x1 NOSUCHCOMMAND\r\n")
        read_until(connection, b"x1 ")
        connection.send(b"x2 IDLE\r\n")
        read_until(connection, b"+ ")
        relay.wait(2)  # this is the condition: in IDLE until it hibernates
        connection.send(b"DONE\r\n")
        read_until(connection, b"x2 ")
    with contextlib.suppress(imaplib.IMAP4.error):
        imap(relay, Account(alice.address, "not-the-password"))
    relay.run("systemctl start chatmail-expire")

    expected = {
        "created_accounts": 3,
        "created_ci_accounts": 1,
        "created_nonci_accounts": 2,
        "chatmail_registrations_rejected_total max_load_1m": 1,
        # Two to bob, two to the other relay, one to a dead host.
        "chatmail_passed_total outgoing encrypted": 5,
        "chatmail_refused_total outgoing unencrypted": 1,
        "chatmail_refused_total outgoing forged From": 1,
        # These, and the bounce for the dead host.
        "dkim_signed": 6,
        "chatmail_pushes_total sent": 1,
        "chatmail_pushes_total gone": 1,
        "chatmail_deliveries_total https": 1,
        "chatmail_deliveries_total smtp": 1,
        "chatmail_delivery_failures_total answer https": 1,
        "chatmail_delivery_no_host_total": 1,
        "chatmail_passed_total incoming encrypted": 2,
        "chatmail_dkim_verified_total": 2,
        "chatmail_mxdeliv_total accepted": 1,
        "chatmail_mxdeliv_total refused": 1,
        "chatmail_refused_total incoming no such address": 1,
        "chatmail_refused_total incoming no DKIM signature": 1,
        # To bob two from alice and two from another relay, and the bounce to alice.
        "delivered_mail": 5,
        "filtered_outgoing_mail_count": 6,
        "outgoing_encrypted_mail_count": 5,
        "outgoing_unencrypted_mail_count": 1,
        "filtered_incoming_mail_count": 2,
        "incoming_encrypted_mail_count": 2,
        "filtered_mail_count": 8,
        "encrypted_mail_count": 7,
        "unencrypted_mail_count": 1,
        "rejected_unencrypted_mail_count": 1,
        "filtermail_outbound_drop_total unencrypted": 1,
        "filtermail_outbound_drop_total forged From": 1,
        "filtermail_inbound_drop_total no such address": 1,
        "filtermail_inbound_drop_total no DKIM signature": 1,
    }
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        after = numbers(relay)
        if after["delivered_mail"] - before["delivered_mail"] >= expected["delivered_mail"]:
            break
        relay.wait(0.2)
    return SimpleNamespace(
        before=before,
        after=after,
        expected=expected,
        people=[*alice, *bob, *ci, elsewhere],
        token=token,
        here=here,
    )


# These are not counters of services: the numbers of the report, and the parts that answer.
OTHERS = (
    "chatmail_accounts",
    "chatmail_expire_",
    "chatmail_messages_",
    "chatmail_metrics_up",
    "chatmail_storage",
    "dovecot_",
)


def test_each_thing_that_happens_is_counted_and_nothing_else(day):
    found = moved(day.before, day.after)
    ours = {name: number for name, number in found.items() if not name.startswith(OTHERS)}
    assert ours == day.expected


def test_retention_and_dovecot_are_told_beside_it(day):
    found = moved(day.before, day.after)
    assert found["chatmail_expire_runs_total"] == 1
    assert day.after["chatmail_accounts all"] >= 3
    assert "chatmail_expire_removed_total inactive" in day.after
    assert found["dovecot_mail_delivery_total"] == day.expected["delivered_mail"]
    assert found["dovecot_mail_delivery_duration_count"] == day.expected["delivered_mail"]
    # Logins by IMAP. For logins by SMTP, Postfix may still be connected to an auth process from
    # before Dovecot's reload, which Dovecot's statistics do not know.
    assert found["dovecot_auth_request_total yes"] >= 5
    # The rejected registration, and the wrong password.
    assert found["dovecot_auth_failed_total"] == 2
    assert found["dovecot_imap_command_total unknown"] >= 1
    assert found["dovecot_imap_command_total IDLE"] >= 1
    assert found["dovecot_imap_hibernated_total"] >= 1
    assert found["dovecot_imap_unhibernated_reason_total idle_done"] >= 1
    parts = {name: up for name, up in day.after.items() if name.startswith("chatmail_metrics_up")}
    assert len(parts) == 9  # the filter has a process for each of its four roles
    assert set(parts.values()) == {1}


def test_endpoint_tells_what_the_documentation_lists_and_nothing_else(relay, day):
    table = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "metrics.md").read_text(), re.M))
    found = {
        re.sub(r"_(bucket|sum|count)$", "", sample.name)
        if family.type == "histogram"
        else sample.name
        for family in text_string_to_metric_families(scrape(relay))
        for sample in family.samples
    }
    assert {name for name in found if not name.endswith("_duration_seconds_total")} == table


def test_dashboard_shows_what_the_endpoint_tells(relay, day):
    panels = json.loads((DOCS / "grafana-dashboard.json").read_text())["panels"]
    series = {
        (sample.name, label)
        for family in text_string_to_metric_families(scrape(relay))
        for sample in family.samples
        for label in [*sample.labels, None]
    }
    for panel in panels:
        for target in panel.get("targets", []):
            names = re.findall(r"(\w+)\{", target["expr"])
            grouped = re.findall(r" by \(([\w, ]+)\)", target["expr"])
            labels = grouped[0].split(", ") if grouped else [None]
            for name in names:
                missing = [label for label in labels if (name, label) not in series]
                assert missing == [], (panel["title"], target["expr"])


def test_no_metric_tells_who_or_where(relay, day):
    for accept in ("text/plain", "application/openmetrics-text"):
        text = scrape(relay, accept)
        assert "@" not in text
        private = [*day.people, day.token, day.here, relay.ip, relay.domain]
        private += [
            "NOSUCHCOMMAND",
            "nowhere.example",
            "elsewhere.example",
            *(person.partition("@")[0] for person in day.people),
        ]
        assert [each for each in private if each in text] == []
        assert (
            re.findall(r"\b[0-9]{1,3}(?:\.[0-9]{1,3}){3}\b", re.sub("build_info.*", "", text)) == []
        )


def test_openmetrics_is_well_formed(relay, day):
    families = {
        family.name for family in openmetrics(scrape(relay, "application/openmetrics-text"))
    }
    assert {"delivered_mail", "chatmail_passed", "dovecot_imap_command"} <= families


def test_counters_outlive_restarts_of_their_services(relay, day):
    before = numbers(relay)
    units = [f"chatmail-{name}" for name in ("accounts", "filter", "transport")]
    relay.run(["systemctl", "restart", *units])
    relay.run(["systemctl", "kill", "--signal=KILL", *units])
    relay.wait_until(
        lambda: (
            relay.run(["systemctl", "is-active", *units], check=False).stdout
            == "active\n" * len(units)
        )
    )
    after = numbers(relay)
    ours = [name for name in day.expected if not name.startswith("dovecot_")]
    assert {name: after[name] for name in ours} == {name: before[name] for name in ours}
    new_account(relay)
    assert numbers(relay)["created_accounts"] == before["created_accounts"] + 1


def test_relay_whose_dovecot_is_down_tells_the_rest_at_once(relay, day):
    relay.run("systemctl stop dovecot")
    try:
        started = time.monotonic()
        found = numbers(relay)
        assert time.monotonic() - started < 3
        assert found["chatmail_metrics_up dovecot"] == 0
        assert found["delivered_mail"] >= day.after["delivered_mail"]
        assert not [name for name in found if name.startswith("dovecot_")]
    finally:
        relay.run("systemctl start dovecot")
    relay.wait_until(lambda: numbers(relay)["chatmail_metrics_up dovecot"] == 1)
