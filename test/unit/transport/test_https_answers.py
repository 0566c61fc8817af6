"""Servers of HTTPS that answer strangely, and what a failure is called."""

import asyncio
import contextlib
import gzip
import ssl

import pytest
from chatmaild.common import http_client
from chatmaild.common.http_client import NoAnswer
from chatmaild.transport import https_client
from support import transport_peers as peers
from support.running_transport import world

pytestmark = pytest.mark.usefixtures("short_times")


def answered(tmp_path, authority, *answers):
    """Deliver to a server that gives one of these answers a connection.

    Returns the reply, and the heads of the requests.
    """
    left, requests = list(answers), []

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            requests.append(await reader.readuntil(b"\r\n\r\n"))
            await reader.readuntil(b"hello\r\n")
            writer.write(left.pop(0))
            await writer.drain()
        writer.close()

    async def run():
        async with world(tmp_path, authority) as (ours, path):
            context = authority.server("mx.b.example")
            port = ours.https_port
            async with await asyncio.start_server(serve, "127.0.0.2", port, ssl=context):
                [reply] = await peers.lmtp_send(path, ["x@b.example"])
                return reply, port

    reply, port = asyncio.run(run())
    return reply.replace(str(port), "PORT"), requests


TAKEN = "250 2.0.0 mx.b.example took it by HTTPS"
FAILED = "451 4.4.1 mx.b.example: HTTPS: "


def test_answer_with_a_header_of_56_kb_is_read(tmp_path, authority):
    fields = b"X: %b\r\n" % (b"x" * 8000) * 7
    answer = b"HTTP/1.1 200 OK\r\n%bContent-Length: 6\r\n\r\n250 OK" % fields
    reply, _ = answered(tmp_path, authority, answer)
    assert reply == TAKEN


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_a_failure_and_not_followed(tmp_path, authority, status):
    """It may lead anywhere, also to an address that is no destination."""
    answer = b"HTTP/1.1 %d X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status
    taken = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n250 OK"
    reply, requests = answered(tmp_path, authority, answer, taken)
    assert reply.startswith(f"{FAILED}{status}; SMTP: ")
    assert [request.split(b" ")[1] for request in requests] == [b"/mxdeliv"]


@pytest.mark.parametrize(("text", "told"), [(b"", ""), (b"451 4.3.0 later", " 451 4.3.0 later")])
def test_answer_that_breaks_off_is_told_by_its_status(tmp_path, authority, text, told):
    answer = b"HTTP/1.1 503 X\r\nContent-Length: 1000\r\n\r\n" + text
    reply, requests = answered(tmp_path, authority, answer)
    assert reply.startswith(f"{FAILED}503{told}; SMTP: ")
    assert len(requests) == 1


def test_first_connection_that_ends_without_an_answer_is_a_failure(tmp_path, authority):
    """Only a kept connection may have been closed before it got the request."""
    reply, requests = answered(tmp_path, authority, b"", b"")
    assert reply.startswith(f"{FAILED}closed the connection without an answer; SMTP: ")
    assert len(requests) == 1


def test_host_without_https_is_told_in_the_words_of_the_system(tmp_path, authority):
    async def run():
        async with world(tmp_path, authority) as (_, path):
            return await peers.lmtp_send(path, ["x@b.example"])

    [reply] = asyncio.run(run())
    assert reply.startswith(f"{FAILED}Connect")
    assert "; SMTP: [127.0.0.2]:" in reply


def test_server_that_speaks_no_tls_is_told_so(tmp_path, authority):
    async def run():
        async with world(tmp_path, authority, https=peers.HttpsPeer(), tls=None) as (_, path):
            return await peers.lmtp_send(path, ["x@b.example"])

    [reply] = asyncio.run(run())
    assert reply.startswith(f"{FAILED}TLS failed: ")
    assert "; SMTP: " in reply


def not_trusted():
    error = ssl.SSLCertVerificationError()
    error.verify_message = "it is old"
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TimeoutError(), ("timed out", "timeout")),
        (not_trusted(), ("TLS failed: certificate not trusted (it is old)", "tls")),
        (NoAnswer("of our own"), ("of our own", "connection")),
        (ssl.SSLError(1, "secret"), ("TLS failed: SSLError", "tls")),
        (OSError(113, "No route to host"), ("No route to host", "connection")),
        (ConnectionError("secret"), ("ConnectionError", "connection")),
        (ValueError("secret"), ("ValueError", "connection")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failure_is_told_without_octets_of_the_other_side(error, told):
    assert https_client._describe_failure(error) == told


def test_contexts_want_the_same_of_a_certificate_with_every_python(monkeypatch):
    """Python 3.13 asks CA certificates for extensions that Debian 12's does not ask for."""
    create = ssl.create_default_context

    def strict(**places):
        context = create(**places)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    for verified in (True, False):
        context = http_client.tls_context(verified)
        assert not context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.check_hostname is verified
        assert context.verify_mode == (ssl.CERT_REQUIRED if verified else ssl.CERT_NONE)
    assert http_client.tls_context(True).verify_flags & ssl.VERIFY_X509_TRUSTED_FIRST


def test_host_that_moved_is_found_at_its_new_address(tmp_path, authority):
    """Also while a look-up of a moment ago would still be remembered."""
    old, new = peers.HttpsPeer(), peers.HttpsPeer()

    async def run():
        async with world(tmp_path, authority) as (ours, path):
            context = authority.server("mx.b.example")
            async with old.at("127.0.0.2", ours.https_port, context):
                first = await peers.lmtp_send(path, ["x@b.example"])
            ours.dns.zone = ours.dns.zone | {("mx.b.example", "A"): ["127.0.0.3"]}
            async with new.at("127.0.0.3", ours.https_port, context):
                return first + await peers.lmtp_send(path, ["x@b.example"])

    assert asyncio.run(run()) == [TAKEN, TAKEN]
    assert len(old.posts) == len(new.posts) == 1


def test_answer_is_not_decompressed(tmp_path, authority):
    """Nobody asked for it, and a kilobyte may be a gigabyte."""
    compressed = gzip.compress(b"250 2.0.0 " + b"x" * 1000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(compressed)}"
    reply, _ = answered(tmp_path, authority, f"{head}\r\n\r\n".encode() + compressed)
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: 200, but not as a relay answers; ")
