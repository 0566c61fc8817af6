"""The relay's records in a real zone, published by the converge, and a rotation of its keys."""

import fcntl
import json
import re
import threading
import time

import pytest
from relay.client import encrypted, imap, new_account, smtp
from support import dnsservers

# The address of this process in the lab's network, where its name server listens.
CLIENT = "198.51.100.200"
APPLY = "salt-call --local --out=json state.apply chatmail.dns"
# No request goes there. Only the file of an account shows that it exists, for the CAA record.
AUTHORITY = "acme-v02.api.letsencrypt.org/directory"
ACCOUNT = f"/etc/letsencrypt/accounts/{AUTHORITY}/0f"
KEY_FILE = "/etc/chatmail/tsig.key"
OTHERS = 'chat 60 TXT "proof=of ownership"\nchat 60 CAA 0 iodef "mailto:admin@example.org"\n'


@pytest.fixture(scope="module")
def port_53(lab_network):
    """Wait for port 53: the tests of both releases may run at once on the lab's one client."""
    with open("/run/lock/chatmail-lab-client-dns", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(params=["knot", "bind"])
def box(request, port_53, empty_box, tmp_path):
    """A machine whose mail domain is in a zone of this process, which accepts updates."""
    box = empty_box()
    zone = f"{box.name}.example.net"
    box.zone, box.domain = f"{zone}.", f"chat.{zone}"
    box.dns_set(box.zone, "NS", f"ns.{box.zone}")
    box.dns_set(f"ns.{box.zone}", "A", CLIENT)
    own = {"addresses": [box.ip], "server": CLIENT, "tsig_key_file": KEY_FILE}
    settings = {"mail_domain": box.domain, "acme_directory": f"https://{AUTHORITY}", "dns": own}
    pillar = {"chatmail": settings}
    box.run(["tee", "/srv/pillar/relay.sls"], input=json.dumps(pillar))
    box.run(f"mkdir -p /etc/chatmail {ACCOUNT}")
    box.run(["tee", f"{ACCOUNT}/regr.json"], input='{"uri": "https://ca.example/acct/1"}')
    key = dnsservers.key_file(tmp_path).read_text()
    box.run(f"umask 077; cat > {KEY_FILE}", input=key)
    text = f"$ORIGIN {box.zone}\n@ 60 SOA ns hostmaster 1 3600 600 86400 1\n@ 60 NS ns\n"
    text += f"ns 60 A {CLIENT}\n{OTHERS}"
    with dnsservers.SERVERS[request.param](tmp_path / "server", CLIENT, {box.zone: text}):
        yield box
    box.dns_del(f"ns.{box.zone}")
    box.dns_del(box.zone)


def changed(box, *arguments):
    """Apply the DNS part; return {state: changes} of the states with changes. No state may fail."""
    done = box.run(" ".join([APPLY, *arguments]), check=False)
    report = json.loads(done.stdout)["local"]
    assert isinstance(report, dict), report
    bad = {k: v["comment"] for k, v in report.items() if v["result"] is False}
    assert not bad
    return {v["__id__"]: v["changes"] for v in report.values() if v["changes"]}


def test_empty_zone_is_complete_after_one_converge_and_mended_by_the_next(box):
    before = dnsservers.contents(CLIENT, box.zone)
    first = changed(box)
    assert len(first["chatmail records of the relay"]) == 15  # all but AAAA
    complete = dnsservers.contents(CLIENT, box.zone)
    assert before <= complete
    assert changed(box) == {}
    assert changed(box, "test=True") == {}
    found = box.salt("chatmail_dns.check")
    assert found["result"] is True
    assert {entry["status"] for entry in found["records"]} == {"ok", "not needed"}
    box.run("salt-call --local state.apply chatmail.dns.verified")

    dnsservers.set_records(
        f"{box.domain}.", "MX", "10 mx.example.net.", address=CLIENT, zone=box.zone
    )
    report = box.run("salt-call --local chatmail_dns.report", check=False).stdout
    assert f"wrong      {box.domain}. MX" in report
    verified = box.run("salt-call --local state.apply chatmail.dns.verified test=True", check=False)
    assert f"{box.domain}. MX is wrong" in verified.stdout
    assert changed(box) == {
        "chatmail records of the relay": {
            f"{box.domain}. MX": {"old": ["10 mx.example.net."], "new": [f"10 {box.domain}."]}
        }
    }
    assert dnsservers.contents(CLIENT, box.zone) == complete


# A relay allows a sender 60 messages in a minute, so one sender can send one message in a second.
INTERVAL = 1.05


class Sender(threading.Thread):
    """Sends a message each second to another relay until it is stopped."""

    def __init__(self, relay, alice, bob):
        super().__init__(daemon=True)
        self.relay, self.alice, self.bob = relay, alice, bob
        self.sent, self.refused, self.enough = [], [], threading.Event()

    def run(self):
        while not self.enough.wait(INTERVAL):
            number = f"<{len(self.sent)}.{time.time_ns()}@rotation>"
            message = encrypted(self.alice.address, self.bob.address, Message_ID=number)
            try:
                with smtp(self.relay, self.alice) as connection:
                    connection.sendmail(self.alice.address, [self.bob.address], message)
                self.sent.append(number)
            except OSError as error:  # smtplib's errors are some
                self.refused.append(error)

    def wait_for(self, more):
        """Wait until some more messages have been sent."""
        wanted = len(self.sent) + more
        end = time.monotonic() + 30
        while len(self.sent) < wanted:
            assert not self.refused
            assert time.monotonic() < end, "no messages are sent"
            time.sleep(0.1)


def received(relay, account):
    """Return the Message-IDs in the account's INBOX."""
    connection = imap(relay, account)
    connection.select("INBOX", readonly=True)
    _, found = connection.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
    connection.logout()
    text = b"".join(part for item in found if isinstance(item, tuple) for part in item)
    return set(re.findall(r"<\S+@rotation>", text.decode()))


def selectors(relay):
    keys = relay.salt("chatmail_dkim.list")
    return {name for name, key in keys.items() if key["status"] == "signing"}


def rotated_by_hand(sender, traffic):
    """Rotate like an operator without dns:server, with traffic before, between and after."""
    old = selectors(sender)
    first = sender.salt("chatmail_dkim.rotate", "wait=0")
    assert first["step"] == "waiting"
    traffic.wait_for(3)
    for record in first["publish"]:
        sender.dns_set(record["name"], "TXT", record["value"])
    assert sender.salt("chatmail_dkim.rotate", "wait=30")["step"] == "switched"
    assert selectors(sender) == {record["name"].partition(".")[0] for record in first["publish"]}
    traffic.wait_for(5)
    # Fifteen days later.
    sender.run("sed -i 's/20[0-9][0-9]-\\(..-..T\\)/2020-\\1/' /etc/chatmail/dkim/signing.json")
    for name in sender.salt("chatmail_dkim.withdraw")["remove"]:
        sender.dns_del(name, "TXT")
    assert set(sender.salt("chatmail_dkim.withdraw")["withdrawn"]) == old
    traffic.wait_for(5)
    return old


def test_no_message_is_refused_while_the_keys_rotate(relay, domain_box):
    sender = domain_box
    sender.run("salt-call --local state.apply chatmail.dns")
    alice, bob = new_account(sender), new_account(relay)
    traffic = Sender(sender, alice, bob)
    traffic.start()
    traffic.wait_for(3)
    old = rotated_by_hand(sender, traffic)
    traffic.enough.set()
    traffic.join(timeout=30)
    assert traffic.refused == []
    assert len(traffic.sent) >= 16
    relay.wait_until(lambda: received(relay, bob) >= set(traffic.sent), 60)
    assert not old & selectors(sender)
    assert set(sender.salt("chatmail_dkim.probe").values()) == {"verified"}
    assert sender.run("postqueue -j").stdout == ""
