"""`POST /mxdeliv` against a real SMTP server that takes XCLIENT as Postfix does."""

import asyncio
import errno
import re
from pathlib import Path

import aiohttp
import pytest
from chatmaild.dkim import verifying
from chatmaild.message import spool
from chatmaild.transport import delivery, destinations, gateway, https_client, smtp_client
from support import transport_peers as peers
from support.running_gateway import (
    ENVELOPE,
    MAX_SIZE,
    Slow,
    Smtpd,
    give_up,
    post,
    running_gateway,
)

TRICKY = b"A: b\r\n\r\n.\r\n..\r\n.x\r\n\xff\x00\r\n.\r\n"


@pytest.mark.parametrize("body", [peers.MESSAGE, TRICKY, b".\r\n"], ids=["plain", "dots", "dot"])
def test_message_goes_to_postfix_octet_by_octet(tmp_path, body):
    smtpd = Smtpd()
    assert post(tmp_path, smtpd, body=body) == (200, "250 2.0.0 this relay said: 250 queued as X\n")
    [(envelope, _)] = smtpd.mails
    assert (envelope.mail_from, envelope.rcpt_tos) == ("a@b.example", ["x@ours.example"])
    assert envelope.original_content == body


@pytest.mark.parametrize(
    ("client", "told"),
    [
        ("192.0.2.7", "NAME=[UNAVAILABLE] ADDR=192.0.2.7"),
        ("2001:db8::7", "NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::7"),
    ],
)
def test_postfix_learns_the_clients_address(tmp_path, client, told):
    smtpd = Smtpd()
    assert post(tmp_path, smtpd, client=client)[0] == 200
    assert smtpd.clients == [told]


@pytest.mark.parametrize("sender", [None, "", "<>"])
def test_no_sender_is_the_null_sender(tmp_path, sender):
    smtpd = Smtpd()
    headers = [("X-Mail-To", "x@ours.example")]
    if sender is not None:
        headers.append(("X-Mail-From", sender))
    assert post(tmp_path, smtpd, headers=headers)[0] == 200
    assert smtpd.mails[0][0].mail_from in ("", "<>")


def test_each_recipient_header_is_one_recipient(tmp_path):
    smtpd = Smtpd()
    headers = [("X-Mail-To", f"u{n}@ours.example") for n in range(1000)]
    assert post(tmp_path, smtpd, headers=headers)[0] == 200
    assert smtpd.mails[0][0].rcpt_tos == [f"u{n}@ours.example" for n in range(1000)]


@pytest.mark.parametrize(
    ("headers", "line"),
    [
        ([("X-Mail-From", "a@b")], "554 5.5.1 "),
        ([("X-Mail-From", "a@b"), ("X-Mail-From", "c@d"), ("X-Mail-To", "e@f")], "501 5.5.4 "),
        ([("X-Mail-From", "a b@c"), ("X-Mail-To", "e@f")], "501 5.1.7 "),
        ([("X-Mail-From", "a@b> SIZE=1"), ("X-Mail-To", "e@f")], "501 5.1.7 "),
        ([("X-Mail-To", "e@f> NOTIFY=NEVER")], "501 5.1.3 "),
        ([("X-Mail-To", "e@f"), ("X-Mail-To", "")], "501 5.1.3 "),
        ([("X-Mail-To", f"u{n}@x") for n in range(1001)], "452 4.5.3 "),
    ],
)
def test_bad_envelope_is_refused_before_postfix_is_asked(tmp_path, headers, line):
    smtpd = Smtpd()
    status, text = post(tmp_path, smtpd, headers=headers)
    assert (status, text[: len(line)]) == (400, line)
    assert smtpd.sessions == 0


@pytest.mark.parametrize(
    "end", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\n", b"\r"]
)
def test_bare_line_end_is_refused(tmp_path, end):
    """SMTP smuggling by HTTPS: the body would go on as commands of its own."""
    smtpd = Smtpd()
    body = peers.MESSAGE + b"x" + end + b"MAIL FROM:<ceo@ours.example>\r\n"
    assert post(tmp_path, smtpd, body=body) == (
        400,
        "550 5.5.2 a line must end in CR LF and nothing else\n",
    )
    assert smtpd.mails == []


@pytest.mark.parametrize(
    ("step", "reply", "status"),
    [
        ("MAIL", "554 5.7.1 no", 400),
        ("DATA", "523 Encryption Needed: Invalid Unencrypted Mail", 400),
        ("DATA", "554 5.7.1 No valid DKIM signature found", 400),
        ("DATA", "451 4.7.1 DNS", 503),
        ("x@ours.example", "550 5.1.1 unknown", 400),
        ("x@ours.example", "450 4.7.1 later", 503),
    ],
)
def test_refusal_comes_back_with_its_line(tmp_path, step, reply, status):
    smtpd = Smtpd(**{step: reply})
    got, text = post(tmp_path, smtpd)
    assert got == status
    assert text.startswith(reply[:3])
    assert reply.split(" ")[-1] in text
    assert smtpd.mails == []


def test_one_refused_recipient_means_nobody_gets_it(tmp_path):
    """The sender repeats the whole by SMTP: who had it already would get it twice."""
    smtpd = Smtpd(**{"no@ours.example": "550 5.1.1 unknown"})
    headers = [("X-Mail-To", "x@ours.example"), ("X-Mail-To", "no@ours.example")]
    status, text = post(tmp_path, smtpd, headers=headers)
    assert (status, text) == (400, "550 5.1.1 this relay said: 550 unknown\n")
    assert smtpd.mails == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(tmp_path, method):
    assert post(tmp_path, Smtpd(), method=method)[0] == 405


async def in_pieces(size):
    for _ in range(size // 1000):
        yield b"x" * 998 + b"\r\n"


@pytest.mark.parametrize("known", [True, False], ids=["length told", "chunked"])
def test_too_large_a_message_is_413(tmp_path, known):
    smtpd = Smtpd()

    async def run():
        async with running_gateway(tmp_path, smtpd) as ask:
            fits = await ask(body=b"x" * 998 + b"\r\n" if known else in_pieces(MAX_SIZE))
            body = b"x\r\n" * (MAX_SIZE // 2) if known else in_pieces(MAX_SIZE + 1000)
            return fits[0], (await ask(body=body))[0]

    assert asyncio.run(run()) == (200, 413)
    assert len(smtpd.mails) == 1


def test_client_that_hangs_up_amid_the_body_delivers_nothing(tmp_path, caplog):
    smtpd = Smtpd()

    async def broken():
        yield peers.MESSAGE
        raise ConnectionError

    async def run():
        async with running_gateway(tmp_path, smtpd) as ask:
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await ask(body=broken(), headers=(*ENVELOPE, ("Content-Length", "1000")))
            return await ask()

    assert asyncio.run(run())[0] == 200
    assert len(smtpd.mails) == 1
    # It was logged as a disk that is full.
    assert "cannot keep" not in caplog.text


def test_postfix_that_is_down_is_temporary(tmp_path):
    assert post(tmp_path) == (503, "451 4.3.0 mail cannot be taken now\n")


def test_postfix_that_is_silent_is_temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway, "END_SECONDS", 0.2)
    monkeypatch.setattr(gateway, "REPLY_SECONDS", 0)
    assert post(tmp_path, peers.BlackHole()) == (503, "451 4.3.0 mail cannot be taken now\n")


def test_message_is_not_taken_after_the_sender_gave_up(tmp_path):
    """It arrived twice: by HTTPS, late, and by SMTP."""
    smtpd = Slow()

    async def run():
        async with running_gateway(tmp_path, smtpd) as ask:
            await give_up(ask, smtpd)
            assert (await ask())[0] == 200
            return len(smtpd.mails)

    assert asyncio.run(run()) == 1


def test_message_is_not_taken_after_the_time_of_a_sender(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway, "END_SECONDS", 0.3)
    smtpd = Slow()

    async def run():
        async with running_gateway(tmp_path, smtpd) as ask:
            asking = asyncio.create_task(ask())
            await smtpd.asked.wait()
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < began + gateway.END_SECONDS:
                await asyncio.sleep(0.01)
            smtpd.may_go_on.set()
            return await asking, smtpd.mails

    assert asyncio.run(run()) == ((503, "451 4.3.0 mail cannot be taken now\n"), [])


def test_body_that_trickles_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway, "BODY_SECONDS", 0.2)
    done = asyncio.Event()

    async def endless():
        while not done.is_set():
            yield b"x"
            await asyncio.sleep(0.01)

    async def run():
        async with running_gateway(tmp_path, Smtpd()) as ask:
            try:
                return await ask(body=endless())
            finally:
                done.set()

    status, text = asyncio.run(run())
    assert (status, text[:10]) == (408, "451 4.4.2 ")


def test_client_has_only_so_many_requests_at_once(tmp_path, monkeypatch):
    """Others get theirs meanwhile. One machine with a /64 is one client."""
    monkeypatch.setattr(gateway, "PER_CLIENT", 2)
    smtpd = Slow()

    async def run():
        async with running_gateway(tmp_path, smtpd) as ask:
            waiting = [
                asyncio.create_task(ask(client=client))
                for client in ("192.0.2.7", "192.0.2.7", "2001:db8::1", "2001:db8::2")
            ]
            while smtpd.sessions < 2 * len(waiting):
                await asyncio.sleep(0.01)
            refused = [await ask(client=client) for client in ("192.0.2.7", "2001:db8::3")]
            smtpd.may_go_on.set()
            taken = [status for status, _ in await asyncio.gather(*waiting)]
            others = [await ask(client=client) for client in ("192.0.2.8", "192.0.2.7")]
            return refused, taken, [status for status, _ in others]

    refused, taken, others = asyncio.run(run())
    assert refused == [(503, "451 4.3.2 too many messages at once, try again later\n")] * 2
    assert taken == [200] * 4
    assert others == [200, 200]


def test_requests_that_wait_leave_room_for_other_clients(tmp_path, monkeypatch):
    """200 of one client that waited for DNS had all of Postfix's processes."""
    monkeypatch.setattr(gateway, "AT_ONCE", 3)
    smtpd = Slow()

    async def run():
        async with running_gateway(tmp_path, smtpd) as ask:
            waiting = [asyncio.create_task(ask(client=f"192.0.2.{n}")) for n in range(3)]
            while smtpd.sessions < 2 * len(waiting):
                await asyncio.sleep(0.01)
            refused, _ = await ask(client="192.0.2.9")
            smtpd.may_go_on.set()
            await asyncio.gather(*waiting)
            return refused, (await ask(client="192.0.2.9"))[0]

    assert asyncio.run(run()) == (503, 200)
    master_cf = Path(__file__).parents[3] / "chatmail/postfix/files/master.cf.jinja"
    monkeypatch.undo()
    processes = re.search(r"127\.0\.0\.1:10025 .* (\d+) +smtpd\n", master_cf.read_text())[1]
    assert int(processes) == gateway.AT_ONCE
    assert gateway.PER_CLIENT * 10 <= gateway.AT_ONCE
    assert delivery.PER_HOST < gateway.PER_CLIENT


def test_times_of_sender_and_receiver_fit():
    """The receiver's last word comes before the sender stops to listen."""
    assert gateway.BODY_SECONDS < gateway.END_SECONDS
    assert verifying.DNS_SECONDS + 5 <= gateway.REPLY_SECONDS
    last_word = gateway.END_SECONDS + gateway.REPLY_SECONDS
    assert last_word < https_client.HTTPS_SECONDS - https_client.CONNECTED_SECONDS
    after_body = last_word - gateway.BODY_SECONDS
    assert after_body < https_client.ANSWER_SECONDS
    nginx = (Path(__file__).parents[3] / "chatmail/nginx/files/nginx.conf.jinja").read_text()
    [mxdeliv] = re.findall(r"location = /mxdeliv \{(.*?)\n        \}", nginx, re.S)
    assert "proxy_request_buffering off;" in mxdeliv
    assert int(re.search(r"proxy_read_timeout (\d+)s;", mxdeliv)[1]) > after_body
    https = https_client.HTTPS_SECONDS
    worst = delivery.START_SECONDS + destinations.DNS_SECONDS + https + delivery.SMTP_SECONDS
    postfix = Path(__file__).parents[3] / "chatmail/postfix/files/master.cf.jinja"
    assert f"needs {worst} s at most" in postfix.read_text()


def test_postfix_without_xclient_gets_no_mail(tmp_path, caplog):
    """Else every client would be 127.0.0.1, and limits would hit all of them at once."""
    smtpd = Smtpd(xclient=False)
    assert post(tmp_path, smtpd)[0] == 503
    assert smtpd.mails == []
    assert "smtpd_authorized_xclient_hosts" in caplog.text


@pytest.mark.parametrize("client", [None, "", "unknown", "1.2.3.4 NAME=x"])
def test_request_without_a_client_address_is_not_taken(tmp_path, caplog, client):
    smtpd = Smtpd()
    assert post(tmp_path, smtpd, client=client)[0] == 503
    assert smtpd.sessions == 0
    assert "X-Real-IP" in caplog.text


def _raise(error):
    raise error


def test_full_disk_is_temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(
        spool.Message, "write", lambda *_: _raise(OSError(errno.ENOSPC, "No space left"))
    )
    assert post(tmp_path, Smtpd())[1].startswith("452 4.3.1 ")


def test_lost_session_after_the_message_is_temporary(tmp_path, monkeypatch):
    async def uncertain(*_):
        raise smtp_client.Uncertain("no reply")

    monkeypatch.setattr(smtp_client.SmtpSession, "_send_data", uncertain)
    assert post(tmp_path, Smtpd())[0] == 503
