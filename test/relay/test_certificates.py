"""Certificates of the lab's ACME authority and of the operator, and the TLS of the ports.

The tests of this file share a machine. After each test the machine has a certificate of the
authority for all its names.
"""

import contextlib
import imaplib
import json
import re
import shlex
import smtplib
import ssl
from pathlib import Path

import pytest
from relay.client import new_account
from relay.handshakes import connect, context

AUTHORITY = "198.51.100.201"
TSIG_KEY = Path("/run/chatmail-lab/knot/tsig.key")
APPLY = "salt-call --local --out=json state.apply chatmail"
OLDEST = {25: "TLSv1_2", 143: "TLSv1_3", 465: "TLSv1_3", 587: "TLSv1_3", 993: "TLSv1_3"}
VERSIONS = ["TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"]


def serial(relay, port, name=None, **settings):
    """Return the serial number of the certificate that a port serves; it must be valid."""
    with connect(relay, port, context(**settings), name) as connection:
        return connection.getpeercert()["serialNumber"]


def serials(relay):
    """Return the serial numbers of the certificates of all three daemons, as a set."""
    return {serial(relay, port) for port in (443, 993, 465, 25)}


def states(relay, **pillar):
    """Apply the formula with further pillar; return {state id: result}."""
    override = json.dumps({"chatmail": {"mail_domain": relay.domain, **pillar}})
    done = relay.run(f"{APPLY} pillar={shlex.quote(override)}", check=False)
    return {state["__id__"]: state for state in json.loads(done.stdout)["local"].values()}


def failed(applied):
    return {name: state["comment"] for name, state in applied.items() if state["result"] is False}


def changed(applied):
    return {name: state["changes"] for name, state in applied.items() if state["changes"]}


def forget_certificate(relay):
    """Remove certbot's files, as on a machine that never had a certificate."""
    relay.run("certbot delete --non-interactive --cert-name chatmail")


@contextlib.contextmanager
def no_authority(relay):
    """Block the way from the machine to the authority."""
    relay.run(f"ip route add unreachable {AUTHORITY}/32")
    try:
        yield
    finally:
        relay.run(f"ip route del unreachable {AUTHORITY}/32")


# The protocols. These tests can use any relay.


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("port", OLDEST)
def test_no_port_speaks_a_protocol_below_the_contracts(relay, port, version):
    probe(relay, port, version, OLDEST[port])


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("alpn", "oldest"), [("imap", "TLSv1_3"), ("smtp", "TLSv1_3"), ("http/1.1", "TLSv1_2")]
)
def test_shared_port_speaks_no_protocol_below_the_contracts(relay, alpn, oldest, version):
    probe(relay, 443, version, oldest, alpn)


def probe(relay, port, version, oldest, alpn=None):
    """Offer only one protocol version. The relay may accept only `oldest` and newer ones."""
    only = getattr(ssl.TLSVersion, version)
    tls = context(only, only, alpn, verify=False)
    if VERSIONS.index(version) >= VERSIONS.index(oldest):
        with connect(relay, port, tls) as connection:
            assert connection.version() == version.replace("_", ".")
        return
    with pytest.raises((ssl.SSLError, ConnectionResetError)) as refused:
        connect(relay, port, tls).close()
    # The relay must refuse, and not this machine's OpenSSL, which may be unable to ask. Dovecot 2.3
    # hangs up without an alert.
    hung_up = isinstance(
        refused.value, ssl.SSLZeroReturnError | ssl.SSLEOFError | ConnectionResetError
    )
    assert hung_up or refused.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"


# ACME.


def test_first_converge_gets_a_certificate_for_all_names_and_all_ports(domain_box):
    for port in (25, 143, 465, 587, 993, 443):
        assert serial(domain_box, port)
    for name in (f"www.{domain_box.domain}", f"mta-sts.{domain_box.domain}"):
        assert serial(domain_box, 443, name)
    assert serial(domain_box, 443, alpn="imap") == serial(domain_box, 993)
    assert domain_box.salt("chatmail_relay.status")["certificate_failure"] is None


def test_second_converge_finds_nothing_to_do(domain_box):
    applied = states(domain_box)
    assert (failed(applied), changed(applied)) == ({}, {})


def waiting_client(relay, account, port):
    """Return an IMAP client that waits in IDLE."""
    tls = context(alpn="imap" if port == 443 else None)
    client = imaplib.IMAP4_SSL(relay.domain, port, ssl_context=tls, timeout=20)
    client.login(*account)
    client.select()
    client.send(b"idle IDLE\r\n")
    assert client.readline().startswith(b"+")
    return client


def end_waiting(client):
    """Leave IDLE. If the connection was dropped, the test fails."""
    client.send(b"DONE\r\n")
    while not (line := client.readline()).startswith(b"idle "):
        assert line, "the relay closed an idle connection"
    assert line.startswith(b"idle OK")
    client.logout()


def test_renewal_reaches_all_daemons_and_drops_no_idle_connection(domain_box):
    """Only certbot runs, as by its timer. Hibernated clients stay connected too."""
    account = new_account(domain_box)
    with connect(domain_box, 993, context()):
        clients = [waiting_client(domain_box, account, port) for port in (993, 443)]
        # Longer than imap_hibernate_timeout.
        domain_box.wait(1.5)
        clients.append(waiting_client(domain_box, account, 993))
        before = serials(domain_box)
        domain_box.run("certbot renew --quiet --no-random-sleep-on-renew --force-renewal")
        domain_box.wait_until(lambda: not before & serials(domain_box), 10)
        assert len(serials(domain_box)) == 1
        for client in clients:
            end_waiting(client)


def test_renewal_by_the_timers_of_the_machine_is_set_up(domain_box):
    for timer in ("certbot.timer", "chatmail-certificate.timer"):
        assert domain_box.run(f"systemctl is-enabled {timer}").stdout == "enabled\n"
        assert domain_box.run(f"systemctl is-active {timer}").stdout == "active\n"
    hook = "/usr/bin/python3 -m chatmaild.certificate deploy"
    assert hook in domain_box.run("cat /etc/letsencrypt/renewal/chatmail.conf").stdout


def test_name_that_cannot_be_validated_is_left_out_and_named(domain_box):
    www = f"www.{domain_box.domain}"
    forget_certificate(domain_box)
    # Of a hundred names that the account has validated, pebble validates one not again, although
    # PEBBLE_AUTHZREUSE is 0 (wfe.go: rand.Intn(100) > 0). A new account has validated none.
    domain_box.run("rm -r /etc/letsencrypt/accounts")
    domain_box.dns_del(www)
    try:
        issuing = states(domain_box)
        assert failed(issuing) == {}
        (warning,) = issuing["chatmail certificate of the authority"]["warnings"]
        # pebble says `connection` where Let's Encrypt says `dns`.
        assert re.match(rf"{re.escape(www)} is not in the certificate: (dns|connection): ", warning)
        assert serial(domain_box, 443, f"mta-sts.{domain_box.domain}")
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            serial(domain_box, 443, www)
        failure = domain_box.salt("chatmail_relay.status")["certificate_failure"]
        assert set(failure["missing"]) == {www}

        again = states(domain_box)
        assert (failed(again), changed(again)) == ({}, {})
        assert www in again["chatmail certificate of the authority"]["comment"]
    finally:
        domain_box.dns_set(www, "CNAME", f"{domain_box.domain}.")
    domain_box.run("systemctl start chatmail-certificate.service")
    assert serial(domain_box, 443, www)
    assert domain_box.salt("chatmail_relay.status")["certificate_failure"] is None


def test_failing_authority_leaves_the_relay_on_its_certificate_and_says_so(domain_box):
    before = serials(domain_box)
    # A new one is due, because another authority seems to have issued the last one.
    conf = "/etc/letsencrypt/renewal/chatmail.conf"
    domain_box.run(f"sed -i 's,^server = .*,server = https://old.example/dir,' {conf}")
    with no_authority(domain_box):
        applied = states(domain_box)
        assert failed(applied) == {}
        assert "acme.lab" in applied["chatmail certificate of the authority"]["comment"]
        assert serials(domain_box) == before
        timer = domain_box.run("systemctl start chatmail-certificate.service", check=False)
        assert timer.returncode != 0
        status = domain_box.salt("chatmail_relay.status")
        assert "acme.lab" in status["certificate_failure"]["error"]
        assert status["certificate_failure"]["missing"] == {}
        assert status["units"]["nginx"] == "active"
    assert failed(states(domain_box)) == {}
    assert not before & serials(domain_box)
    assert domain_box.salt("chatmail_relay.status")["certificate_failure"] is None


def test_first_request_that_fails_fails_the_state_and_nothing_else(domain_box):
    before = serials(domain_box)
    forget_certificate(domain_box)
    with no_authority(domain_box):
        assert set(failed(states(domain_box))) == {"chatmail certificate of the authority"}
        assert serials(domain_box) == before
        failure = domain_box.salt("chatmail_relay.status")["certificate_failure"]
        assert domain_box.domain in failure["missing"]
    assert failed(states(domain_box)) == {}
    assert not before & serials(domain_box)


def test_challenge_by_dns_needs_no_port_80_and_shows_no_secret(domain_box):
    key = TSIG_KEY.read_text()
    secret = re.search(r'secret "(.*?)"', key)[1]
    domain_box.run("umask 077 && cat > /etc/chatmail/tsig.key", input=key)
    dns = {"server": "198.51.100.53", "tsig_key_file": "/etc/chatmail/tsig.key"}
    forget_certificate(domain_box)
    before = serials(domain_box)
    # Port 80 does not answer now.
    domain_box.run("mv /var/lib/chatmail/acme /var/lib/chatmail/acme.away")
    domain_box.run("touch /var/lib/chatmail/acme.new")
    try:
        applied = states(domain_box, acme_challenge="dns-01", dns=dns)
    finally:
        domain_box.run("rm -rf /var/lib/chatmail/acme.new /var/lib/chatmail/acme.away")
    assert failed(applied) == {}
    assert not before & serials(domain_box)
    assert serial(domain_box, 443, f"www.{domain_box.domain}")
    renewal = domain_box.run("cat /etc/letsencrypt/renewal/chatmail.conf").stdout
    assert "authenticator = dns-rfc2136" in renewal
    assert secret not in json.dumps(applied)
    places = "/var/log/letsencrypt /var/log/salt /etc/letsencrypt /etc/chatmail/relay.json"
    assert domain_box.run(f"grep -rlF '{secret}' {places}", check=False).stdout == ""
    assert domain_box.run(f"journalctl | grep -cF '{secret}'", check=False).stdout == "0\n"
    assert domain_box.run("stat -c '%a %U' /etc/chatmail/rfc2136.ini").stdout == "600 root\n"
    again = states(domain_box, acme_challenge="dns-01", dns=dns)
    assert (failed(again), changed(again)) == ({}, {})


# The operator's own files.


PAIR = ["/etc/ssl/relay/fullchain.pem", "/etc/ssl/relay/privkey.pem"]


def make_pair(relay, directory="/etc/ssl/relay"):
    """Make a certificate file for the relay's names; return its serial number."""
    names = ",".join(f"DNS:{name}{relay.domain}" for name in ("", "www.", "mta-sts."))
    relay.run(
        f"mkdir -p {directory} && openssl req -x509 -nodes -days 90 -newkey ec "
        f"-pkeyopt ec_paramgen_curve:prime256v1 -subj /CN={relay.domain} "
        f"-addext subjectAltName={names} -keyout {directory}/privkey.pem "
        f"-out {directory}/fullchain.pem"
    )
    shown = relay.run(f"openssl x509 -noout -serial -in {directory}/fullchain.pem").stdout
    return shown.strip().partition("=")[2]


def served(relay, port=443):
    """Return the serial number of a port's certificate, from any issuer."""
    with connect(relay, port, context(verify=False)) as connection:
        encoded = connection.getpeercert(binary_form=True)
    text = ssl.DER_cert_to_PEM_cert(encoded)
    done = relay.client("openssl", "x509", "-noout", "-serial", input=text)
    return done.stdout.strip().partition("=")[2]


@pytest.fixture
def external(domain_box):
    """Return a function that switches to the operator's files. The test's end undoes it."""
    number = make_pair(domain_box)
    yield lambda: (states(domain_box, tls_external_cert_and_key=PAIR), number)
    domain_box.run("systemctl disable --now chatmail-certificate.path; rm -rf /etc/ssl/relay")
    applied = states(domain_box)
    assert failed(applied) == {}
    assert serials(domain_box)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("rm /etc/ssl/relay/privkey.pem", "privkey.pem cannot be read: No such file"),
        ("echo junk > /etc/ssl/relay/fullchain.pem", "cannot be used: expected a PEM"),
        (
            "openssl ecparam -name prime256v1 -genkey -noout -out /etc/ssl/relay/privkey.pem",
            "do not belong together",
        ),
    ],
    ids=["missing", "unreadable", "no match"],
)
def test_unusable_file_of_the_operator_is_refused(domain_box, external, damage, message):
    before = serials(domain_box)
    domain_box.run(damage)
    applied, _ = external()
    assert message in failed(applied)["chatmail certificate of the operator"]
    assert serials(domain_box) == before


def test_files_of_the_operator_are_used_and_followed_when_they_change(domain_box, external):
    applied, number = external()
    assert failed(applied) == {}
    assert {served(domain_box, port) for port in (443, 993, 465, 25)} == {number}
    again, _ = external()
    assert (failed(again), changed(again)) == ({}, {})

    # Most programs replace one file after the other, so the files do not match for a while.
    number = make_pair(domain_box, "/etc/ssl/relay.new")
    domain_box.run("mv /etc/ssl/relay.new/fullchain.pem /etc/ssl/relay/")
    domain_box.wait(0.5)
    domain_box.run("mv /etc/ssl/relay.new/privkey.pem /etc/ssl/relay/")
    for port in (443, 993, 465):
        domain_box.wait_until(lambda port=port: served(domain_box, port) == number, 15)
    with smtplib.SMTP(domain_box.domain, 25, timeout=20) as session:
        session.starttls(context=context(verify=False))
        assert session.noop()[0] == 250
