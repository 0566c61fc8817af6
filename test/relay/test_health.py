"""chatmail_relay.health: a healthy relay is healthy, a fault fails its own step, no trace stays."""

import contextlib
import json
import re

import pytest
from relay.client import encrypted, new_account, smtp
from support.logins import mailboxes

CALL = ["salt-call", "--local", "--out=json", "--log-level=error", "chatmail_relay.health"]
# The steps that a relay of the lab cannot be asked: a container has no time service of its own, and
# the lab's relays run no iroh relay.
NOT_IN_THE_LAB = {"clock", "iroh"}
ON_DNS = {"dns", "dkim", "message by /mxdeliv", "message by port 25"}
TLS = "/etc/chatmail/tls"


def health(relay, *arguments):
    """Return the exit code of the check and its result."""
    done = relay.run([*CALL, *arguments], check=False)
    return done.returncode, json.loads(done.stdout)["local"]


def steps(found, result):
    """Return {name: comment} of the steps with a result."""
    return {each["name"]: each["comment"] for each in found["steps"] if each["result"] is result}


def only_failure(relay):
    """Return the name and the comment of the only step that fails, and those not asked."""
    code, found = health(relay)
    failed = steps(found, False)
    assert (code, found["result"], len(failed)) == (1, False, 1), failed
    [(name, comment)] = failed.items()
    return name, comment, set(steps(found, None)) - NOT_IN_THE_LAB - {"mta-sts"}


@contextlib.contextmanager
def stopped(relay, unit):
    """Stop a unit within a `with` block."""
    relay.run(["systemctl", "stop", unit])
    try:
        yield
    finally:
        relay.run(["systemctl", "start", unit])


def began(relay):
    return relay.run("date +@%s.%N").stdout.strip()


def addresses_in_journal(relay, since):
    """Return the addresses that Postfix has named since a time."""
    relay.run("journalctl --sync")
    journal = relay.run(f"journalctl --no-pager --output=cat --since={since}").stdout
    return set(re.findall(r"<([a-z0-9]+@[^>]+)>", journal))


def test_healthy_relay_is_healthy(relay):
    code, found = health(relay)
    assert steps(found, False) == {}
    assert (code, found["result"]) == (0, True)
    assert set(steps(found, None)) <= NOT_IN_THE_LAB | {"mta-sts"}
    assert "notice came after" in steps(found, True)["message by port 25"]
    assert steps(found, True)["new addresses"] == "a new address logged in"


@pytest.fixture
def published(domain_box):
    """Publish the records that the lab leaves to the operator, and return the machine."""
    missing = [
        (each["name"].rstrip("."), each["type"], each["expected"])
        for each in domain_box.salt("chatmail_dns.check", check=False)["records"]
        if each["need"] == "required" and each["status"] == "missing"
    ]
    for name, kind, [value] in missing:
        domain_box.dns_set(name, kind, value)
    yield domain_box
    for name, kind, _values in missing:
        domain_box.dns_del(name, kind)


def test_relay_with_a_domain_is_healthy(published):
    code, found = health(published)
    assert steps(found, False) == {}
    assert (code, found["result"]) == (0, True)
    assert set(steps(found, None)) <= NOT_IN_THE_LAB
    assert {"mta-sts", "dns", "dkim"} <= set(steps(found, True))


def test_relay_without_a_domain_is_healthy(ip_relay):
    code, found = health(ip_relay)
    assert steps(found, False) == {}
    assert (code, found["result"]) == (0, True)
    assert set(steps(found, None)) <= NOT_IN_THE_LAB | {"mta-sts", "dns", "dkim"}


def test_no_trace_stays(relay):
    before, since = mailboxes(relay), began(relay)
    _code, found = health(relay)
    used = addresses_in_journal(relay, since)
    assert len(used) >= 2
    assert mailboxes(relay) == before
    assert relay.run("postqueue -j").stdout == ""
    found_on_disk = relay.run(
        f"find / -xdev -name '*@{relay.domain}*' -newermt {since} -not -path '/proc/*'; "
        "grep -rlE {} /etc /var/lib /var/log /var/cache /var/spool /run /tmp 2>/dev/null".format(
            "'" + "|".join(map(re.escape, used)) + "'"
        ),
        check=False,
    ).stdout
    # The journal is in memory. Postfix names the addresses there.
    assert re.sub(r"/run/log/journal/.*\n", "", found_on_disk) == ""
    assert not any(address in json.dumps(found) for address in used)


def test_offline_asks_no_dns(relay):
    code, found = health(relay, "offline=True")
    assert (code, found["result"]) == (0, True)
    not_asked = steps(found, None)
    assert set(not_asked) - NOT_IN_THE_LAB == ON_DNS | {"mta-sts"}
    assert all("offline=True" in not_asked[name] for name in ON_DNS)


def test_relay_that_gives_no_addresses_is_healthy(relay):
    relay.salt("chatmail_accounts.nocreate", "on")
    try:
        code, found = health(relay)
    finally:
        relay.salt("chatmail_accounts.nocreate", "off")
    assert (code, steps(found, False)) == (0, {})
    assert "as the settings say" in steps(found, True)["new addresses"]


@pytest.mark.parametrize(
    ("unit", "not_asked"),
    [
        ("chatmail-filter", {"message by submission", "login smtp 465", "refusal of cleartext"}),
        ("coturn", {"turn"}),
        ("dovecot", {"login imap 993", "message by submission", "metadata", "turn"}),
        ("postfix", {"login smtp 587", "message by port 25", "refusal of a forged From"}),
        ("chatmail-transport", {"message by /mxdeliv"}),
        ("nginx", {"login imap 443", "login smtp 443", "start page", "message by /mxdeliv"}),
    ],
)
def test_stopped_unit_fails_one_step_and_those_behind_it_are_not_asked(relay, unit, not_asked):
    before = mailboxes(relay)
    with stopped(relay, unit):
        name, comment, left_out = only_failure(relay)
    assert name == "units"
    assert comment.startswith(f"{unit} is inactive; expected: active. `systemctl status UNIT`")
    assert not_asked <= left_out
    assert mailboxes(relay) == before


def test_file_with_another_certificate_than_the_daemons_show(relay):
    old, new = "/run/health-old", "/run/health-new"
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -subj /CN=test"
    options += f" -addext subjectAltName=DNS:{relay.domain}"
    copy = "cat {0}/privkey.pem > {1}/privkey.pem && cat {0}/fullchain.pem > {1}/fullchain.pem"
    relay.run(f"umask 077; mkdir {old} {new}; {copy.format(TLS, old)}")
    relay.run(f"openssl req {options} -keyout {new}/privkey.pem -out {new}/fullchain.pem")
    try:
        relay.run(copy.format(new, TLS))
        name, comment, left_out = only_failure(relay)
    finally:
        relay.run(f"{copy.format(old, TLS)}; rm -r {old} {new}; systemctl restart postfix")
    assert (name, left_out) == ("tls", set())
    assert "port 993 (imap) shows SHA-256 " in comment
    assert "port 443 (https) shows SHA-256 " in comment
    assert f"which is in {TLS}/fullchain.pem. `systemctl reload dovecot postfix nginx`" in comment
    assert health(relay)[0] == 0


def test_mail_that_is_held_in_the_queue(relay):
    sender = new_account(relay)
    queued = "find /var/spool/postfix/deferred -type f"
    with stopped(relay, "chatmail-transport"), smtp(relay, sender) as connection:
        stranger = "somebody@elsewhere.example"
        connection.sendmail(sender.address, [stranger], encrypted(sender.address, stranger))
        relay.wait_until(lambda: relay.run(queued).stdout)
    try:
        relay.run("postsuper -h ALL")
        name, comment, left_out = only_failure(relay)
    finally:
        relay.run("postsuper -d ALL")
    assert (name, left_out) == ("queue", set())
    assert comment.startswith("messages on hold: 1; expected: none (`postsuper -H ALL` releases")


def test_record_that_is_missing_in_dns(relay):
    selectors = relay.salt("chatmail_relay.status")["dkim_selectors"]
    records = {each["name"]: each["value"] for each in relay.salt("chatmail_dkim.records")}
    name = f"{selectors[0]}._domainkey.{relay.domain}."
    relay.dns_del(name.rstrip("."), "TXT")
    try:
        code, found = health(relay)
    finally:
        relay.dns_set(name.rstrip("."), "TXT", records[name])
    failed = steps(found, False)
    assert code == 1
    assert {"dns", "dkim"} <= set(failed)
    assert f"{name} TXT is missing" in failed["dns"]
    assert "chatmail_dns.report" in failed["dns"]
    assert failed["dkim"].startswith(f"{selectors[0]}: ")


def test_machine_that_is_no_relay_yet_says_so(relay):
    settings = "/etc/chatmail/relay.json"
    relay.run(f"mv {settings} {settings}.aside")
    try:
        done = relay.run(CALL, check=False)
    finally:
        relay.run(f"mv {settings}.aside {settings}")
    assert done.returncode != 0
    assert settings in done.stderr
