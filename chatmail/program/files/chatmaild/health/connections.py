"""Connections to the relay's own ports, as a client makes them, and the notice of new mail in IDLE.

They go to the loopback interface, so no other machine can answer. They take any certificate: the
step `tls` compares each port's certificate with the file.
"""

import contextlib
import http.client
import imaplib
import smtplib
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

HOST = "127.0.0.1"
# Seconds for each answer of the relay.
PATIENCE = 8
SHARED_PORT = 443
STARTTLS_PORTS = (25, 143, 587)


def context(protocol: str | None = None) -> ssl.SSLContext:
    """Return a TLS context. protocol: the name for ALPN, which port 443 goes by (RFC 7301)."""
    made = ssl.create_default_context()
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    if protocol:
        made.set_alpn_protocols([protocol])
    return made


@contextlib.contextmanager
def imap(port: int) -> Iterator[imaplib.IMAP4]:
    """Keep an IMAP connection over TLS open within a `with` block, and log out at its end."""
    client = _open_imap(port)
    try:
        yield client
    finally:
        # What went wrong before matters more than a logout that fails after it.
        try:
            client.logout()
        except (OSError, imaplib.IMAP4.error):
            with contextlib.suppress(OSError):
                client.shutdown()


def _open_imap(port):
    if port in STARTTLS_PORTS:
        client = imaplib.IMAP4(HOST, port, timeout=PATIENCE)
        client.starttls(context())
        return client
    tls = context("imap" if port == SHARED_PORT else None)
    return imaplib.IMAP4_SSL(HOST, port, ssl_context=tls, timeout=PATIENCE)


def smtp(port: int, name: str) -> smtplib.SMTP:
    """Return an SMTP connection over TLS, which a `with` block ends. name: for EHLO."""
    if port in STARTTLS_PORTS:
        client = smtplib.SMTP(HOST, port, local_hostname=name, timeout=PATIENCE)
        client.starttls(context=context())
        return client
    tls = context("smtp" if port == SHARED_PORT else None)
    return smtplib.SMTP_SSL(HOST, port, local_hostname=name, timeout=PATIENCE, context=tls)


def ask_web(
    domain: str, path: str, method: str = "GET", body: bytes | None = None, headers=()
) -> tuple[int, bytes]:
    """Return the status and the body of an answer by HTTPS.

    headers: further fields, as pairs.
    """
    client = http.client.HTTPSConnection(HOST, SHARED_PORT, timeout=PATIENCE, context=context())
    with contextlib.closing(client):
        client.request(method, path, body=body, headers={"Host": domain, **dict(headers)})
        answer = client.getresponse()
        return answer.status, answer.read()


def certificate_of(port: int, protocol: str, name: str) -> bytes:
    """Return the certificate that a port shows, in DER. protocol: imap, smtp or https."""
    if protocol == "https":
        client = http.client.HTTPSConnection(HOST, port, timeout=PATIENCE, context=context())
        with contextlib.closing(client):
            client.connect()
            return client.sock.getpeercert(True)
    if protocol == "imap":
        with imap(port) as client:
            return client.socket().getpeercert(True)
    with smtp(port, name) as client:
        return client.sock.getpeercert(True)


def certificate_in(path: str) -> bytes:
    """Return the first certificate of a PEM file, in DER. Raises OSError and ValueError."""
    text, end, _chain = Path(path).read_text().partition("-----END CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(text[text.find("-----BEGIN") :] + end)


@contextlib.contextmanager
def idling(client: imaplib.IMAP4) -> Iterator[None]:
    """Keep a connection in IDLE (RFC 2177) within a `with` block."""
    client.send(b"idle IDLE\r\n")
    _read_until(client, b"+", time.monotonic() + PATIENCE)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            client.send(b"DONE\r\n")
            _read_until(client, b"idle OK", time.monotonic() + PATIENCE)


def await_notice(client: imaplib.IMAP4) -> None:
    """Wait in IDLE until the relay tells of a message. Raises TimeoutError."""
    _read_until(client, b" EXISTS", time.monotonic() + PATIENCE)


def _read_until(client: imaplib.IMAP4, wanted: bytes, deadline: float) -> None:
    while time.monotonic() < deadline:
        line = client.readline()
        if wanted in line:
            return
        if not line:
            raise ConnectionError("the relay closed the connection")
    raise TimeoutError
