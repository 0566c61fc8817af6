"""Delivery by HTTPS: what is sent, which answers count, and what an answer may tell."""

import asyncio
import contextlib

import pytest
from chatmaild.transport import https_client
from support import transport_peers as peers
from support.running_transport import deliver, world

pytestmark = pytest.mark.usefixtures("short_times")


def test_mx_host_is_asked_by_https_with_envelope_in_headers(tmp_path, authority):
    https, smtp = peers.HttpsPeer(), peers.SmtpPeer()
    replies = deliver(tmp_path, authority, ["x@b.example", "Y@B.example"], https=https, smtp=smtp)
    assert replies == ["250 2.0.0 mx.b.example took it by HTTPS"] * 2
    [(headers, body)] = https.posts
    assert headers.getall("X-Mail-From") == ["a@ours.example"]
    assert headers.getall("X-Mail-To") == ["x@b.example", "Y@B.example"]
    assert headers.getall("Content-Length") == [str(len(peers.MESSAGE))]
    assert "Transfer-Encoding" not in headers
    assert body == peers.MESSAGE
    assert smtp.sessions == 0


@pytest.mark.parametrize("status", [400, 404, 405, 413, 500, 502, 503, 301, 204])
def test_any_https_status_but_200_leads_to_smtp(tmp_path, authority, status):
    https, smtp = peers.HttpsPeer((status, "550 5.1.1 no")), peers.SmtpPeer()
    replies = deliver(tmp_path, authority, https=https, smtp=smtp)
    assert replies == ["250 2.0.0 mx.b.example said: 250 queued as X"]
    [(envelope, tls)] = smtp.mails
    assert tls is not None
    assert (envelope.mail_from, envelope.rcpt_tos) == ("a@ours.example", ["x@b.example"])
    assert envelope.original_content == peers.MESSAGE
    assert "BODY=8BITMIME" in envelope.mail_options


@pytest.mark.parametrize(
    ("kind", "text", "taken"),
    [
        ("", "250 OK", True),  # filtermail
        ("text/plain", "OK", True),  # madmail
        ("", "", True),  # its older versions
        ("text/plain", "250 2.0.0 this relay said: 250 2.0.0 Ok: queued as X\n", True),
        ("text/html", "<html>It works!</html>", False),
        ("text/html", "OK", False),
        ("text/plain", "<html>It works!</html>", False),
        ("text/plain", "okay, what do you want?", False),
        ("text/plain", "", False),
        ("application/json", '{"status": "ok"}', False),
        ("application/octet-stream", "", False),
        ("text/plain", "550 5.1.1 no such user", False),
    ],
)
def test_only_what_a_relay_answers_counts_as_delivered(tmp_path, authority, kind, text, taken):
    """A web server that answers every path with 200 swallowed mail."""
    https = peers.HttpsPeer((200, text), kind=kind)
    [reply] = deliver(tmp_path, authority, https=https)
    told = "250 2.0.0 mx.b.example took it by HTTPS"
    failed = "451 4.4.1 mx.b.example: HTTPS: 200, but not as a relay answers; SMTP: "
    assert reply.startswith(told if taken else failed)


def test_https_refusal_alone_never_bounces(tmp_path, authority):
    """Port 25 is blocked and /mxdeliv says no: the message stays in the queue."""
    https = peers.HttpsPeer((400, "550 5.1.1 no such user"))
    [reply] = deliver(tmp_path, authority, https=https)
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: 400 550 5.1.1 no such user; SMTP: ")


def test_200_before_the_whole_message_counts_for_nothing(tmp_path, authority):
    data = b"x" * 998 + b"\r\n"

    async def early(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await closed.wait()
        writer.close()

    async def run():
        async with world(tmp_path, authority) as (ours, path):
            context = authority.server("mx.b.example")
            port = ours.https_port
            async with await asyncio.start_server(early, "127.0.0.2", port, ssl=context):
                try:
                    return await peers.lmtp_send(path, ["x@b.example"], data * 20000)
                finally:
                    closed.set()

    closed = asyncio.Event()
    [reply] = asyncio.run(run())
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: 200 before it had the whole message; ")


@pytest.mark.parametrize("silent", ["before TLS", "amid the message", "after the message"])
def test_silent_https_host_costs_only_so_long(tmp_path, authority, monkeypatch, silent):
    for name in ("CONNECTED_SECONDS", "PIECE_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(https_client, name, 0.5)
    monkeypatch.setattr(https_client, "CONNECT_SECONDS", 30)

    async def serve(reader, writer):
        if silent == "after the message":
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readuntil(b"hello\r\n")
        await closed.wait()
        writer.close()

    async def run():
        async with world(tmp_path, authority) as (ours, path):
            context = None if silent == "before TLS" else authority.server("mx.b.example")
            data = peers.MESSAGE if silent == "after the message" else b"x\r\n" * 5_000_000
            port = ours.https_port
            async with await asyncio.start_server(serve, "127.0.0.2", port, ssl=context):
                try:
                    async with asyncio.timeout(20):
                        return await peers.lmtp_send(path, ["x@b.example"], data)
                finally:
                    closed.set()

    closed = asyncio.Event()
    [reply] = asyncio.run(run())
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: timed out; SMTP: ")


def test_https_goes_to_the_addresses_that_were_checked(tmp_path, authority):
    """Who answers the first look-up with a public address answers the next one as he likes."""
    https = peers.HttpsPeer()

    async def run():
        async with world(tmp_path, authority, https=https) as (ours, path):
            return await peers.lmtp_send(path, ["x@b.example"]), ours.dns.asked

    [reply], asked = asyncio.run(run())
    assert reply == "250 2.0.0 mx.b.example took it by HTTPS"
    assert asked.count(("mx.b.example", "A")) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("550 5.1.1 no such user\nmore", " 550 5.1.1 no such user"),
        ("550-5.1.1 no such user", " 550-5.1.1 no such user"),
        ("secret: 42", ""),
        ("<html>404</html>", ""),
        (' {"token": "42"}', ""),
        ("550", ""),
        ("1550 5.1.1 no", ""),
        ("550 x" + "y" * 500, " 550 x" + "y" * 199),
        ("550 caf\xe9", " 550 caf"),
    ],
)
def test_only_an_smtp_reply_is_told_of_an_https_answer(tmp_path, authority, text, told):
    """The answer of a machine that was never to be asked came back in the bounce."""
    [reply] = deliver(tmp_path, authority, https=peers.HttpsPeer((404, text)))
    assert reply.startswith(f"451 4.4.1 mx.b.example: HTTPS: 404{told}; SMTP: "), reply


def test_what_is_no_http_is_not_told(tmp_path, authority):
    async def run():
        async with world(tmp_path, authority) as (ours, path):
            context = authority.server("mx.b.example")
            server = peers.scripted([b"SSH-2.0-secret\r\n\r\n"])
            port = ours.https_port
            async with await asyncio.start_server(server, "127.0.0.2", port, ssl=context):
                return await peers.lmtp_send(path, ["x@b.example"])

    [reply] = asyncio.run(run())
    assert "secret" not in reply
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: ")


# Connections that are kept.


def test_messages_to_one_host_share_a_connection(tmp_path, authority):
    https = peers.HttpsPeer()

    async def run():
        async with world(tmp_path, authority, https=https) as (_, path):
            for _ in range(5):
                await peers.lmtp_send(path, ["x@b.example"])

    asyncio.run(run())
    assert len(https.posts) == 5
    assert len(https.connections) == 1


def test_kept_connection_that_dies_is_no_failure_of_https(tmp_path, authority):
    """Port 25 is blocked here, so a failure would have deferred the message for minutes."""
    https = peers.HttpsPeer()

    async def run():
        async with world(tmp_path, authority, https=https) as (_, path):
            await peers.lmtp_send(path, ["x@b.example"])
            https.dying = set(https.connections)
            return await peers.lmtp_send(path, ["x@b.example"])

    assert asyncio.run(run()) == ["250 2.0.0 mx.b.example took it by HTTPS"]
    assert len(https.posts) == 2
