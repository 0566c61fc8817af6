"""TLS sessions with the ports of a relay, in the versions and ciphers that a test wants."""

import socket
import ssl
from pathlib import Path

# The root certificate of the lab's ACME authority.
ROOT = Path("/run/chatmail-lab/pebble/root.pem")


def context(oldest=None, newest=None, alpn=None, verify=True):
    """Return a client's TLS settings. For old protocols, they allow all that OpenSSL can do."""
    if verify:
        made = ssl.create_default_context(cafile=str(ROOT))
    else:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if oldest:
        made.set_ciphers("ALL:@SECLEVEL=0")
        made.minimum_version = oldest
        made.maximum_version = newest
    if alpn:
        made.set_alpn_protocols([alpn])
    return made


def connect(relay, port, tls, name=None):
    """Return a TLS connection to a port, after STARTTLS if the port begins without TLS."""
    plain = socket.create_connection((relay.ip, port), timeout=20)
    try:
        if port in (25, 587, 143):
            ask_for_tls(plain, port)
        return tls.wrap_socket(plain, server_hostname=name or relay.domain)
    except BaseException:
        plain.close()
        raise


def ask_for_tls(plain, port):
    """Bring a plain session to the point where TLS begins."""
    with plain.makefile("rwb") as stream:
        stream.readline()
        if port != 143:
            stream.write(b"EHLO client.example\r\n")
            stream.flush()
            while stream.readline()[3:4] == b"-":
                pass
        stream.write(b"a STARTTLS\r\n" if port == 143 else b"STARTTLS\r\n")
        stream.flush()
        answer = stream.readline()
        assert answer.startswith((b"220", b"a OK")), answer
