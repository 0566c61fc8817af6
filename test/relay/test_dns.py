"""The relay's records in a real zone, published by the converge and by nothing else."""

import contextlib
import json

import dnsservers
import pytest

# Where this process stands in the lab's network, so where its name server listens.
CLIENT = "198.51.100.200"
APPLY = "salt-call --local --out=json state.apply chatmail.dns"
ACCOUNT = "/etc/letsencrypt/accounts/acme-v02.api.letsencrypt.org/directory/0f"
KEY_FILE = "/etc/chatmail/tsig.key"
OTHERS = 'chat 60 TXT "proof=of ownership"\nchat 60 CAA 0 iodef "mailto:admin@example.org"\n'


@pytest.fixture(params=["knot", "bind"])
def box(request, empty_box, tmp_path):
    """A machine whose mail domain lies in a zone of this process's own, which takes updates."""
    box = empty_box()
    zone = f"{box.name}.example.net"
    box.zone, box.domain = f"{zone}.", f"chat.{zone}"
    box.dns_set(box.zone, "NS", f"ns.{box.zone}")
    box.dns_set(f"ns.{box.zone}", "A", CLIENT)
    own = {"addresses": [box.ip], "server": CLIENT, "tsig_key_file": KEY_FILE}
    pillar = {"chatmail": {"mail_domain": box.domain, "dns": own}}
    box.run(["tee", "/srv/pillar/relay.sls"], input=json.dumps(pillar))
    box.run(f"mkdir -p /etc/chatmail {ACCOUNT}")
    box.run(["tee", f"{ACCOUNT}/regr.json"], input='{"uri": "https://ca.example/acct/1"}')
    key = dnsservers.key_file(tmp_path).read_text()
    box.run(f"umask 077; cat > {KEY_FILE}", input=key)
    text = f"$ORIGIN {box.zone}\n@ 60 SOA ns hostmaster 1 3600 600 86400 1\n@ 60 NS ns\n"
    text += f"ns 60 A {CLIENT}\n{OTHERS}"
    with running(request.param, tmp_path, {box.zone: text}):
        yield box
    box.dns_del(f"ns.{box.zone}")
    box.dns_del(box.zone)


@contextlib.contextmanager
def running(kind, directory, zones):
    with dnsservers.SERVERS[kind](directory / kind, CLIENT, zones):
        yield


def changed(box, *arguments):
    """Apply the DNS part; return {state: changes} of what changed. All states must be fine."""
    done = box.run(" ".join([APPLY, *arguments]), check=False)
    report = json.loads(done.stdout)["local"]
    assert isinstance(report, dict), report
    bad = {k: v["comment"] for k, v in report.items() if v["result"] is False}
    assert not bad
    return {v["__id__"]: v["changes"] for v in report.values() if v["changes"]}


def test_empty_zone_is_complete_after_one_converge_and_mended_by_the_next(box):
    before = dnsservers.contents(CLIENT, box.zone)
    first = changed(box)
    assert len(first["records of the relay"]) == 15  # all but AAAA
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
    told = box.run("salt-call --local chatmail_dns.report", check=False).stdout
    assert f"wrong      {box.domain}. MX" in told
    verified = box.run("salt-call --local state.apply chatmail.dns.verified test=True", check=False)
    assert f"{box.domain}. MX is wrong" in verified.stdout
    assert changed(box) == {
        "records of the relay": {
            f"{box.domain}. MX": {"old": ["10 mx.example.net."], "new": [f"10 {box.domain}."]}
        }
    }
    assert dnsservers.contents(CLIENT, box.zone) == complete
