"""What the gateway answers, counts and logs, word by word."""

import asyncio
import errno
import logging

import aiohttp
import pytest
from chatmaild.message import spool
from chatmaild.transport import gateway, smtp_client
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

BUSY = (503, "451 4.3.2 too many messages at once, try again later\n")


def errors(caplog):
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("client", "answer"),
    [("192.0.2.7", 200), (None, (503, "451 4.3.5 this relay is not set up correctly\n"))],
)
def test_request_without_a_client_address_is_answered_by_a_temporary_failure(
    tmp_path, client, answer
):
    told = post(tmp_path, Smtpd(), client=client)
    assert answer in (told, told[0])


@pytest.mark.parametrize("told", [True, False], ids=["length told", "chunked"])
@pytest.mark.parametrize("more", [0, 1])
def test_message_of_the_largest_size_is_taken_and_no_larger_one(tmp_path, told, more):
    body = b"x" * more + (b"x" * 998 + b"\r\n") * (MAX_SIZE // 1000)

    async def pieces():
        yield body[:500]
        yield body[500:]

    answer = post(tmp_path, Smtpd(), body=body if told else pieces())
    if more:
        assert answer == (413, f"552 5.3.4 more than {MAX_SIZE} octets\n")
    else:
        assert answer[0] == 200


@pytest.mark.parametrize(
    ("refusals", "counted"),
    [
        ({}, "accepted"),
        ({"DATA": "451 4.7.1 later"}, "deferred"),
        ({"DATA": "554 5.7.1 no"}, "refused"),
    ],
)
def test_answer_of_postfix_is_counted(tmp_path, counts, refusals, counted):
    post(tmp_path, Smtpd(**refusals))
    assert counts == [("chatmail_mxdeliv_total", counted)]


@pytest.mark.parametrize(
    ("request_", "counted"),
    [
        ({"headers": [("X-Mail-From", "a@b")]}, "refused"),
        ({"client": None}, "deferred"),
    ],
)
def test_refusal_of_the_gateways_own_is_counted(tmp_path, counts, request_, counted):
    post(tmp_path, Smtpd(), **request_)
    assert counts == [("chatmail_mxdeliv_total", counted)]


def test_message_that_breaks_off_is_counted_as_deferred(tmp_path, counts):
    async def broken():
        yield peers.MESSAGE
        raise ConnectionError

    async def run():
        async with running_gateway(tmp_path, Smtpd()) as ask:
            with pytest.raises((aiohttp.ClientError, ConnectionError)):
                await ask(body=broken(), headers=(*ENVELOPE, ("Content-Length", "1000")))
            async with asyncio.timeout(20):
                while not counts:
                    await asyncio.sleep(0)

    asyncio.run(run())
    assert counts == [("chatmail_mxdeliv_total", "deferred")]


def test_full_disk_is_a_temporary_failure_and_named_in_the_log(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool.Message, "write", full)
    answer = post(tmp_path, Smtpd())
    assert answer == (503, "452 4.3.1 no room to keep the message aside\n")
    assert errors(caplog) == ["cannot keep a message aside: No space left on device"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (smtp_client.Uncertain("no reply"), "no reply"),
        (smtp_client.Unreachable("it hung up", "connection"), "it hung up"),
        (TimeoutError(), "timed out"),
    ],
)
def test_postfix_that_fails_is_named_in_the_log(tmp_path, monkeypatch, caplog, error, told):
    async def fail(*_):
        raise error

    monkeypatch.setattr(smtp_client.SmtpSession, "greet", fail)
    assert post(tmp_path, Smtpd()) == (503, "451 4.3.0 mail cannot be taken now\n")
    assert errors(caplog) == [f"Postfix's smtpd for /mxdeliv: {told}"]


def busy(tmp_path, monkeypatch, clients, last):
    """Let requests of clients wait for Postfix, ask once more; return that answer and theirs."""
    monkeypatch.setattr(gateway, "PER_CLIENT", 1)
    smtpd = Slow()

    async def run():
        async with running_gateway(tmp_path, smtpd) as ask:
            waiting = [asyncio.create_task(ask(client=client)) for client in clients]
            async with asyncio.timeout(20):
                while smtpd.sessions < 2 * len(waiting):
                    await asyncio.sleep(0.01)
                more = asyncio.create_task(ask(client=last))
                while not more.done() and smtpd.sessions == 2 * len(waiting):
                    await asyncio.sleep(0.01)
            smtpd.may_go_on.set()
            return await more, [status for status, _ in await asyncio.gather(*waiting)]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("clients", "last", "refused"),
    [
        (["192.0.2.7"], "192.0.2.7", True),
        (["192.0.2.6"], "192.0.2.7", False),
        (["2001:db8::1"], "2001:db8:0:0:ffff::1", True),
        (["2001:db8::1"], "2001:db8:0:1::1", False),
    ],
)
def test_client_is_an_address_or_a_network_of_64_bits(
    tmp_path, monkeypatch, clients, last, refused
):
    answer, others = busy(tmp_path, monkeypatch, clients, last)
    assert others == [200] * len(clients)
    assert answer == BUSY if refused else answer[0] == 200


def test_client_is_counted_while_its_requests_run_and_forgotten_then(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway, "PER_CLIENT", 2)
    made = gateway.Gateway("ours.example", MAX_SIZE, str(tmp_path))
    with made._count_client("192.0.2.7"):
        with made._count_client("192.0.2.7"):
            pass
        client = "192.0.2.7"
        with made._count_client(client), pytest.raises(gateway.Refused), made._count_client(client):
            pass
        assert len(made._of_client) == 1
    assert made._of_client == {}


def test_sender_that_gave_up_is_no_fault_of_ours(tmp_path, caplog):
    smtpd = Slow()

    async def run():
        async with running_gateway(tmp_path, smtpd) as ask:
            await give_up(ask, smtpd)
            return await ask()

    assert asyncio.run(run())[0] == 200
    assert [each for each in errors(caplog) if not each.startswith("Postfix's smtpd for ")] == []
