"""TLS 1.2 for clients: only on a relay without a domain, and there only with modern ciphers."""

import smtplib
import ssl

import pytest
from relay.client import imap, new_account
from relay.handshakes import connect, context

# (port, ALPN) of all services for clients.
CLIENTS = [(993, None), (143, None), (465, None), (587, None), (443, "imap"), (443, "smtp")]
IDS = ["993", "143", "465", "587", "443-imap", "443-smtp"]
# The relay has a key for elliptic curves, so it would refuse a cipher for RSA in any case.
MODERN = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"]
MODERN += ["ECDHE-ECDSA-CHACHA20-POLY1305"]
CBC = ["ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"]
# The first two exchange keys by RSA, without forward secrecy. The last uses no certificate.
WEAK = ["AES128-GCM-SHA256", "AES256-SHA", "AECDH-AES128-SHA"]

# The errors after a refused protocol and after a refused cipher.
PROTOCOL = ("hung up", "TLSV1_ALERT_PROTOCOL_VERSION")
CIPHER = ("hung up", "SSLV3_ALERT_HANDSHAKE_FAILURE")


def tls_1_2(ciphers, alpn=None):
    """Return TLS settings of a client with only TLS 1.2 and only these ciphers."""
    version = ssl.TLSVersion.TLSv1_2
    made = context(version, version, alpn, verify=False)
    made.set_ciphers(f"{':'.join(ciphers)}:@SECLEVEL=0")
    return made


def refusal(relay, port, tls):
    """Return the error if a port refuses a handshake, None if it accepts."""
    try:
        connect(relay, port, tls).close()
    except (ssl.SSLZeroReturnError, ssl.SSLEOFError, ConnectionResetError):
        # Dovecot 2.3 sends no alert.
        return "hung up"
    except ssl.SSLError as error:
        return error.reason
    return None


@pytest.fixture
def rsa_key(ip_relay):
    """Give the relay an RSA key for a while. Without one, RSA key exchange is impossible."""
    make = (
        "openssl req -x509 -nodes -days 9 -newkey rsa:2048 -subj /CN=rsa "
        "-keyout /run/rsa.key -out /run/rsa.pem"
    )
    keep = "cp -L /etc/chatmail/tls/fullchain.pem /run/was.pem"
    ip_relay.run(f"{make} && {keep} && cp -L /etc/chatmail/tls/privkey.pem /run/was.key")
    ip_relay.salt("chatmail_certificate.install", "/run/rsa.pem", "/run/rsa.key")
    yield
    ip_relay.salt("chatmail_certificate.install", "/run/was.pem", "/run/was.key")
    ip_relay.run("rm /run/rsa.* /run/was.*")


@pytest.mark.parametrize(("port", "alpn"), CLIENTS, ids=IDS)
def test_relay_with_a_name_refuses_tls_1_2_whatever_the_cipher(relay, port, alpn):
    assert refusal(relay, port, tls_1_2(["ALL"], alpn)) in PROTOCOL


@pytest.mark.parametrize("cipher", MODERN)
@pytest.mark.parametrize(("port", "alpn"), CLIENTS, ids=IDS)
def test_relay_without_a_domain_speaks_tls_1_2_with_a_modern_cipher(ip_relay, port, alpn, cipher):
    with connect(ip_relay, port, tls_1_2([cipher], alpn)) as connection:
        assert connection.version() == "TLSv1.2"
        assert connection.cipher()[0] == cipher


@pytest.mark.parametrize(("port", "alpn"), CLIENTS, ids=IDS)
def test_relay_without_a_domain_prefers_tls_1_3(ip_relay, port, alpn):
    with connect(ip_relay, port, context(alpn=alpn, verify=False)) as connection:
        assert connection.version() == "TLSv1.3"


@pytest.mark.parametrize(("port", "alpn"), CLIENTS, ids=IDS)
def test_relay_without_a_domain_refuses_old_ciphers(ip_relay, port, alpn):
    assert refusal(ip_relay, port, tls_1_2(CBC + WEAK, alpn)) in CIPHER


@pytest.mark.usefixtures("rsa_key")
def test_relay_without_a_domain_refuses_old_ciphers_with_an_rsa_key(ip_relay):
    old = ["ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA384", "DHE-RSA-AES128-SHA", *WEAK]
    for port, alpn in CLIENTS:
        assert refusal(ip_relay, port, tls_1_2(old, alpn)) in CIPHER, (port, alpn)
        connect(ip_relay, port, tls_1_2(["ECDHE-RSA-AES128-GCM-SHA256"], alpn)).close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(("port", "alpn"), CLIENTS, ids=IDS)
def test_relay_without_a_domain_refuses_tls_1_1(ip_relay, port, alpn):
    only = ssl.TLSVersion.TLSv1_1
    assert refusal(ip_relay, port, context(only, only, alpn, verify=False)) in PROTOCOL


@pytest.mark.parametrize("cipher", [*MODERN, *CBC])
def test_port_25_takes_the_same_ciphers_on_every_relay(relay, ip_relay, cipher):
    """Other mail servers may be old, so this does not depend on the form of the relay."""
    for each in (relay, ip_relay):
        with connect(each, 25, tls_1_2([cipher])) as connection:
            assert connection.cipher()[0] == cipher


def test_client_with_tls_1_2_logs_in_to_a_relay_without_a_domain(ip_relay):
    """Delta Chat on Apple's systems does this when it checks no certificate."""
    account = new_account(ip_relay)
    tls = tls_1_2(MODERN)
    with imap(ip_relay, account, tls=tls) as connection:
        assert connection.sock.version() == "TLSv1.2"
        assert connection.select("INBOX")[0] == "OK"
    with smtplib.SMTP_SSL(ip_relay.ip, 465, timeout=20, context=tls) as connection:
        connection.login(*account)
        assert connection.sock.version() == "TLSv1.2"
