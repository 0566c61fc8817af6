"""A classic mail server for tests: Postfix and OpenDKIM. It shares no code with the relay.

It takes mail for one Unix user and stores it in Maildir files. Two mail domains lead to this host:
a normal domain, and a domain whose first label starts with `_`.
"""

import base64
import datetime
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

SELECTOR = "classic"
CHAIN = "/etc/postfix/tls.pem"
TRUSTED = "/usr/local/share/ca-certificates/classic-test.crt"

MAIN_CF = """\
compatibility_level = 3.6
myhostname = {domain}
mydestination = {domain}, {test_domain}
mynetworks = 127.0.0.0/8
alias_maps =
recipient_delimiter = +
home_mailbox = Maildir/
# Each session has a process of its own, which reads the certificate when it starts.
max_use = 1
smtpd_tls_chain_files = {chain}
smtpd_tls_security_level = may
# The relay sends nothing without TLS. This server checks no certificates.
smtp_tls_security_level = encrypt
smtpd_milters = inet:127.0.0.1:8891
non_smtpd_milters = $smtpd_milters
"""

# TrustAnchorFile, which Debian's own file has, is left out: it has the key of the real root.
OPENDKIM_CONF = """\
Syslog yes
SyslogSuccess yes
UserID opendkim
PidFile /run/opendkim/opendkim.pid
Socket inet:8891@127.0.0.1
Mode sv
Domain {domain}
Selector {selector}
KeyFile /etc/dkimkeys/classic.pem
Canonicalization relaxed/relaxed
# It has a resolver of its own, which would begin with the real root servers.
Nameservers {nameserver}
# What fails is delivered all the same, with the verdict in Authentication-Results.
On-Default accept
"""

INSTALL = """
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get install -q --yes --no-install-recommends postfix opendkim
useradd --create-home carol
"""


class DkimKey(NamedTuple):
    """An RSA key: `pem` is the private key, `record` is the TXT record of the public key."""

    pem: str
    record: str


class Certificate(NamedTuple):
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self):
        """Return both as text for one file of Postfix, with the private key first."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return key.decode() + self.certificate_pem()

    def certificate_pem(self):
        """Return the certificate alone as text."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


def new_dkim_key():
    """Return a fresh DkimKey of 2048 bits."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return DkimKey(pem.decode(), f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}")


def new_certificate(name, issuer=None, valid_days=30):
    """Return a Certificate for a host name.

    issuer: the Certificate that signs the new one. None makes a self-signed certificate.
    valid_days: the days until its end. A negative number makes an expired certificate.
    """
    return _certificate(name, issuer, valid_days, is_ca=False)


def new_authority():
    """Return a Certificate that may issue others."""
    return _certificate("classic test authority", None, 30, is_ca=True)


def _certificate(name, issuer, valid_days, is_ca):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = issuer.key if issuer else key
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=valid_days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=60))
        .not_valid_after(end)
    )
    for extension, critical in _extensions(name, key, signer, is_ca):
        builder = builder.add_extension(extension, critical)
    return Certificate(builder.sign(signer, hashes.SHA256()), key)


def _extensions(name, key, signer, is_ca):
    """Return (extension, critical) pairs: all that the strict check of Python 3.13 needs."""
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    common = [
        (x509.BasicConstraints(ca=is_ca, path_length=None), True),
        (own, False),
        (issuer, False),
    ]
    if is_ca:
        return [*common, (x509.KeyUsage(*5 * [False], True, *3 * [False]), True)]  # to sign others
    return [*common, (x509.SubjectAlternativeName([x509.DNSName(name)]), False)]


class ClassicServer:
    """The server, on a machine with a minimal Debian.

    `domain`, `test_domain`: its mail domains. `address`: the mailbox in `domain`. `dkim_key`: the
    key of OpenDKIM. `authority`: the Certificate that issues its TLS certificate.
    """

    def __init__(self, box):
        self.box = box
        self.domain = f"{box.name}.example"
        self.test_domain = box.domain  # `_NAME.example.org`; the lab has published its address
        self.address = f"carol@{self.domain}"
        self.dkim_key = new_dkim_key()
        self.authority = new_authority()

    def install(self):
        """Publish the server in the DNS, install it and start it with a valid certificate."""
        names = {"domain": self.domain, "test_domain": self.test_domain}
        self.box.dns_set(self.domain, "A", self.box.ip)
        self.box.dns_set(self.domain, "MX", f"10 {self.domain}.")
        self.box.dns_set(self.test_domain, "MX", f"10 {self.domain}.")
        self.box.dns_set(self.key_name(), "TXT", self.dkim_key.record)
        self.box.run(INSTALL)
        names["nameserver"] = self._nameserver()
        self._put("/etc/postfix/main.cf", MAIN_CF.format(chain=CHAIN, **names))
        self._put("/etc/opendkim.conf", OPENDKIM_CONF.format(selector=SELECTOR, **names))
        self._put("/etc/dkimkeys/classic.pem", self.dkim_key.pem, owner="opendkim")
        self.serve(self.good_certificate())
        self.box.run("systemctl restart opendkim postfix")

    def _nameserver(self):
        return self.box.run("sed -n 's/^nameserver //p' /etc/resolv.conf").stdout.split()[0]

    def key_name(self):
        """Return the name of the DKIM key's record."""
        return f"{SELECTOR}._domainkey.{self.domain}"

    def remove(self):
        """Remove the records from the DNS that the lab does not remove itself."""
        for name in (self.domain, self.key_name()):
            self.box.dns_del(name)

    def _put(self, path, text, owner="root"):
        command = ["install", "-D", "-m", "0600" if owner != "root" else "0644", "-o", owner]
        self.box.run([*command, "/dev/stdin", path], input=text)

    def good_certificate(self):
        """Return a Certificate for this server, issued by `authority`."""
        return new_certificate(self.domain, self.authority)

    def serve(self, certificate):
        """Use another Certificate on port 25, from the next session on."""
        self.box.run(["install", "-m", "0600", "/dev/stdin", CHAIN], input=certificate.pem())

    def send(self, recipient, message):
        """Send a message as carol, signed by OpenDKIM. It is bytes with CR LF line ends."""
        command = ["/usr/sbin/sendmail", "-i", "-f", self.address, recipient]
        self.box.run(command, input=message.decode().replace("\r\n", "\n"))

    def outcome(self, message_id):
        """Wait for the answer to carol's message; return Postfix's log line about the answer."""
        script = "index($0, id) { queue = $1 } $1 == queue && / status=/"
        log = "journalctl --no-pager -o cat -t postfix/cleanup -t postfix/smtp"
        command = f"{log} | awk -v 'id={message_id}' '{script}'"
        return self.box.wait_until(lambda: self.box.run(command).stdout)

    def arrived(self, text):
        """Return the stored messages that contain `text`."""
        files = self.box.run(f"grep -rlF -- '{text}' /home/carol/Maildir/new", check=False).stdout
        return [self.box.run(["cat", path]).stdout for path in files.split()]

    def await_arrival(self, text, seconds=30):
        """Wait for a stored message that contains `text`; return the message."""
        (message,) = self.box.wait_until(lambda: self.arrived(text), seconds)
        return message
