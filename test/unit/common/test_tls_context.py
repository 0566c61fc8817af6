"""The TLS context of the services, which trusts the directory of the system's CAs."""

import ssl
import subprocess

import pytest
from chatmaild.common import http_client
from cryptography.hazmat.primitives.serialization import Encoding
from support.transport_peers import Authority

NAME = "relay.example"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def trusted(tmp_path, monkeypatch):
    """A directory of CAs, and a function that adds an authority to it."""
    directory = tmp_path / "certs"
    directory.mkdir()
    monkeypatch.setattr(http_client, "CAS", str(directory))

    def trust(authority):
        pem = authority.certificate.public_bytes(Encoding.PEM)
        command = ["openssl", "x509", "-noout", "-hash"]
        digest = subprocess.run(command, input=pem, capture_output=True, check=True).stdout
        (directory / f"{digest.decode().strip()}.0").write_bytes(pem)

    return trust


def shake_hands(context, server_context):
    """Let a client meet a server in memory. Raises ssl.SSLError as the client would."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=NAME)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    sides = [client, server]
    for side in sides * 4:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert client.version() == "TLSv1.3"


def test_context_reads_no_ca_before_a_handshake_needs_it():
    """Debian's bundle of all CAs took 16 ms and 0.9 MB for each context."""
    for verified in (True, False):
        assert http_client.tls_context(verified).cert_store_stats()["x509"] == 0


def test_context_trusts_a_ca_that_is_added_while_the_service_runs(authority, trusted):
    context = http_client.tls_context(verified=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context, authority.server(NAME))
    trusted(authority)
    shake_hands(context, authority.server(NAME))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(context, authority.server("other.example"))


def test_context_without_verification_takes_any_certificate(authority, trusted):
    shake_hands(http_client.tls_context(verified=False), authority.server("other.example"))
