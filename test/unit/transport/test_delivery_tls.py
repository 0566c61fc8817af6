"""Which certificates and which lack of TLS a destination may show."""

import asyncio
import contextlib

import pytest
from chatmaild.transport import delivery
from support import transport_peers as peers
from support.running_transport import deliver, transport, world

pytestmark = pytest.mark.usefixtures("short_times")


@pytest.mark.parametrize("domain", ["[127.0.0.2]", "[IPv6:::1]"])
def test_literal_goes_to_that_ip_with_any_certificate(tmp_path, authority, domain):
    https, smtp = peers.HttpsPeer((503, "")), peers.SmtpPeer()
    ip = domain[1:-1].removeprefix("IPv6:")

    async def run():
        async with contextlib.AsyncExitStack() as stack:
            enter = stack.enter_async_context
            ours = await enter(transport({}, authority, tmp_path))
            context = authority.server("elsewhere.example", days=-1)
            await enter(https.at(ip, ours.https_port, context))
            await enter(smtp.at(ip, ours.smtp_port, context))
            path = await ours.listen(tmp_path / "lmtp")
            one = await peers.lmtp_send(path, [f"x@{domain}"])
            ours.clock.ahead = delivery.SMTP_FIRST_SECONDS + 1
            return one + await peers.lmtp_send(path, [f"x@{domain}"]), ours.dns.asked

    replies, asked = asyncio.run(run())
    assert replies == [f"250 2.0.0 {ip} said: 250 queued as X", f"250 2.0.0 {ip} took it by HTTPS"]
    assert smtp.mails[0][1] is not None
    assert asked == []


# TLS.


@pytest.mark.parametrize(
    ("names", "days", "reason"),
    [
        (["mx.b.example"], -1, "certificate has expired"),
        (["b.example"], 1, "Hostname mismatch"),
        (None, 1, "unable to get local issuer certificate"),
    ],
    ids=["expired", "wrong name", "unknown CA"],
)
def test_bad_certificate_defers_and_hands_over_nothing(tmp_path, authority, names, days, reason):
    other = peers.Authority(tmp_path) if names is None else authority
    context = other.server(*(names or ["mx.b.example"]), days=days)
    https, smtp = peers.HttpsPeer(), peers.SmtpPeer()
    [reply] = deliver(tmp_path, authority, https=https, smtp=smtp, tls=context)
    assert reply.startswith("451 4.4.1 mx.b.example: HTTPS: TLS failed: certificate not trusted")
    assert reply.count(reason) == 2, reply
    assert https.posts == smtp.mails == []


@pytest.mark.parametrize("way", ["https", "smtp"])
def test_underscore_domain_takes_any_certificate(tmp_path, authority, way):
    zone = {("_b.example", "MX"): ["10 _b.example."], ("_b.example", "A"): ["127.0.0.2"]}
    peer = peers.HttpsPeer() if way == "https" else peers.SmtpPeer()
    context = peers.Authority(tmp_path).server("elsewhere.example", days=-1)
    [reply] = deliver(tmp_path, authority, ["x@_b.example"], zone=zone, tls=context, **{way: peer})
    assert reply.startswith("250 2.0.0 _b.example "), reply
    if way == "smtp":
        assert peer.mails[0][1] is not None


def test_smtp_without_starttls_gets_nothing(tmp_path, authority):
    smtp = peers.SmtpPeer()

    async def run():
        async with (
            world(tmp_path, authority) as (ours, path),
            smtp.at("127.0.0.2", ours.smtp_port, None),
        ):
            return await peers.lmtp_send(path, ["x@b.example"])

    [reply] = asyncio.run(run())
    assert reply.startswith("451 4.4.1 ")
    assert reply.endswith("SMTP: no STARTTLS offered")
    assert smtp.mails == []


@pytest.mark.parametrize("offered", ["nothing", "any certificate", "TLS that fails"])
def test_nauta_cu_may_be_plain(tmp_path, authority, offered):
    zone = {("nauta.cu", "MX"): ["10 mx.nauta.cu."], ("mx.nauta.cu", "A"): ["127.0.0.2"]}
    smtp = peers.SmtpPeer()
    context = None if offered == "nothing" else peers.Authority(tmp_path).server("other.example")

    async def run():
        async with transport(zone, authority, tmp_path) as ours:
            path = await ours.listen(tmp_path / "lmtp")
            if offered == "TLS that fails":
                server = peers.scripted(
                    [b"220 x\r\n", b"250-x\r\n250 STARTTLS\r\n", b"454 no\r\n"], peers.PLAIN_SMTP
                )
                async with await asyncio.start_server(server, "127.0.0.2", ours.smtp_port):
                    return await peers.lmtp_send(path, ["x@nauta.cu"])
            async with smtp.at("127.0.0.2", ours.smtp_port, context):
                return await peers.lmtp_send(path, ["x@nauta.cu"])

    [reply] = asyncio.run(run())
    assert reply.startswith("250 "), reply
    if offered != "TLS that fails":
        assert (smtp.mails[0][1] is not None) == (offered == "any certificate")


@pytest.mark.parametrize(
    ("injected", "reason"),
    [
        (b"220 go\r\n250 x\r\n", "more than one reply to STARTTLS"),
        (
            b"220 go\r\n250 x\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n",
            "sent replies that nothing asked for",
        ),
    ],
)
def test_replies_injected_before_tls_are_not_believed(tmp_path, authority, injected, reason):
    """RFC 3207, 6: else a machine in the middle could take mail without a certificate."""

    async def run():
        async with world(tmp_path, authority) as (ours, path):
            server = peers.scripted([b"220 x\r\n", b"250-x\r\n250 STARTTLS\r\n", injected])
            async with await asyncio.start_server(server, "127.0.0.2", ours.smtp_port):
                return await peers.lmtp_send(path, ["x@b.example"])

    [reply] = asyncio.run(run())
    assert reply.startswith("451 ")
    assert reply.endswith(f"SMTP: {reason}")
