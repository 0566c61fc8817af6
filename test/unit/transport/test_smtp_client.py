"""One SMTP session against a server that is a table: no socket, no waiting."""

import asyncio
import socket

import pytest
from chatmaild.message.spool import Message
from chatmaild.transport import smtp_client
from chatmaild.transport.smtp_client import SmtpConnection, SmtpSession, Uncertain, Unreachable
from chatmaild.transport.smtp_protocol import Reply


class Server(asyncio.Transport):
    """Answers each command with the next reply, and keeps what came."""

    def __init__(self, *replies: bytes):
        super().__init__()
        self.replies = list(replies)
        self.written = b""
        self.lines = []
        self.ended = ""
        self.in_message = False
        self.connection = SmtpConnection()
        self.connection.connection_made(self)

    def write(self, data):
        self.written += data
        *lines, _ = data.split(b"\r\n")
        for line in lines:
            if self.in_message and line != b".":
                continue
            self.lines.append(line.decode())
            if self.replies:
                reply = self.replies.pop(0)
                self.in_message = reply.startswith(b"354")
                asyncio.get_running_loop().call_soon(self.connection.data_received, reply)

    def close(self):
        self.ended += "closed "

    def abort(self):
        self.ended += "aborted "


def session(*replies: bytes, extensions: str = "", recipients=("a@b.example",), **options):
    """Deliver one message; returns the outcome, or the exception, and the server."""

    async def run():
        server = Server(*replies)
        client = SmtpSession(server.connection, "ours.example", "mx.example")
        client.extensions = frozenset(extensions.split())
        with Message("/nonexistent") as message:
            message.write(b"Hello\r\n.\r\n")
            try:
                outcome = await client.deliver("s@ours.example", recipients, message, **options)
            except (Unreachable, Uncertain) as error:
                outcome = error
        return outcome, server

    return asyncio.run(run())


OK, GO = b"250 2.0.0 ok\r\n", b"354 go\r\n"
NO = b"550 5.1.1 no\r\n"
TWO = ("a@b.example", "c@b.example")


@pytest.mark.parametrize(
    ("extensions", "mail"),
    [
        ("", "MAIL FROM:<s@ours.example>"),
        ("SIZE", "MAIL FROM:<s@ours.example> SIZE=10"),
        ("8BITMIME", "MAIL FROM:<s@ours.example> BODY=8BITMIME"),
        ("SIZE 8BITMIME PIPELINING", "MAIL FROM:<s@ours.example> SIZE=10 BODY=8BITMIME"),
    ],
)
def test_commands_are_what_the_server_offers(extensions, mail):
    outcome, server = session(OK, OK, GO, OK, extensions=extensions)
    assert server.lines == [mail, "RCPT TO:<a@b.example>", "DATA", "."]
    assert server.written.endswith(b"DATA\r\nHello\r\n..\r\n.\r\n")
    assert outcome["a@b.example"].line() == "250 2.0.0 mx.example said: 250 ok"


@pytest.mark.parametrize("pipelining", ["", "PIPELINING"])
@pytest.mark.parametrize(
    ("first", "second", "codes"),
    [
        (OK, OK, [250, 250]),
        (b"251 will forward\r\n", b"252 cannot verify\r\n", [250, 250]),
        (OK, NO, [250, 550]),
        (b"259 x\r\n", b"260 x\r\n", [250, 451]),
        (b"249 x\r\n", OK, [451, 250]),
        (b"421 x\r\n", b"354 x\r\n", [421, 451]),
        (NO, b"450 x\r\n", [550, 450]),
    ],
)
def test_recipient_is_accepted_by_25x_only(pipelining, first, second, codes):
    outcome, server = session(OK, first, second, GO, OK, extensions=pipelining, recipients=TWO)
    assert [outcome[recipient].code for recipient in TWO] == codes
    assert ("DATA" in server.lines) is (250 in codes)


@pytest.mark.parametrize("pipelining", ["", "PIPELINING"])
def test_all_or_none_delivers_nothing_once_one_is_refused(pipelining):
    options = {"extensions": pipelining, "recipients": TWO, "all_or_none": True}
    outcome, server = session(OK, OK, NO, GO, OK, **options)
    assert list(outcome) == [TWO[1]]
    assert "DATA" not in server.lines
    outcome, server = session(OK, OK, OK, GO, OK, **options)
    assert sorted(outcome) == list(TWO)
    assert server.lines[-1] == "."


@pytest.mark.parametrize("reply", [b"251 x\r\n", b"550 x\r\n", b"450 x\r\n", b"354 x\r\n"])
def test_sender_that_is_not_answered_250_ends_it(reply):
    outcome, server = session(reply, OK, GO, OK, recipients=TWO)
    assert len(server.lines) == 1
    code = int(reply[:3])
    assert {answer.code for answer in outcome.values()} == {451 if code == 354 else code}
    assert sorted(outcome) == list(TWO)


@pytest.mark.parametrize(("code", "passed"), [(399, False), (400, True), (599, True), (355, False)])
def test_data_that_is_not_answered_354_is_a_refusal_only_by_4xx_and_5xx(code, passed):
    outcome, server = session(OK, OK, b"%d x\r\n" % code, OK)
    assert server.lines[-1] == "DATA"
    if passed:
        assert outcome["a@b.example"].code == code
    else:
        assert isinstance(outcome, Unreachable)
        assert (outcome.kind, str(outcome)) == ("answer", f"answered {code} to DATA")


def test_message_that_may_not_end_is_given_up():
    outcome, server = session(OK, OK, GO, OK, may_end=lambda: False)
    assert isinstance(outcome, Unreachable)
    assert server.lines[-1] == "DATA"
    assert not server.written.endswith(b".\r\n.\r\n")


def test_message_without_a_last_reply_is_uncertain():
    outcome, server = session(OK, OK, GO, b"hello\r\n")
    assert isinstance(outcome, Uncertain)
    assert server.lines[-1] == "."
    assert server.ended == "aborted "


def connected(scenario, *replies):
    """Run a coroutine function with a server that has greeted nobody yet."""

    async def run():
        return await scenario(Server(*replies))

    return asyncio.run(run())


def test_one_reply_may_come_unasked_and_no_second():
    async def scenario(server):
        connection = server.connection
        connection.data_received(b"220 x\r\n421 bye\r\n")
        assert (await connection.reply(1)).code == 220
        assert (await connection.reply(1)).code == 421
        connection.data_received(b"250 x\r\n")
        # The reply to the command that was sent counts as asked for.
        with pytest.raises(Unreachable, match="nothing asked for"):
            await connection.reply(1)
        assert server.ended == "aborted "
        connection.data_received(b"250 x\r\n")
        with pytest.raises(Unreachable, match="nothing asked for"):
            await connection.send(b"QUIT\r\n")
        assert server.written == b""

    connected(scenario)


def test_each_command_allows_one_reply_more():
    async def scenario(server):
        connection = server.connection
        connection.data_received(b"220 x\r\n")
        await connection.reply(1)
        for code in (250, 251, 252):
            assert (await connection.command("NOOP")).code == code
        await connection.send(b"NOOP\r\nNOOP\r\n", replies=2)
        connection.data_received(b"250 x\r\n250 x\r\n421 x\r\n")
        assert [(await connection.reply(1)).code for _ in range(3)] == [250, 250, 421]

    connected(scenario, b"250 x\r\n", b"251 x\r\n", b"252 x\r\n")


def test_octets_that_ask_for_nothing_allow_no_reply_more():
    async def scenario(server):
        connection = server.connection
        connection.data_received(b"220 x\r\n")
        await connection.reply(1)
        await connection.send(b"text\r\n")
        connection.data_received(b"250 x\r\n250 x\r\n")
        with pytest.raises(Unreachable, match="nothing asked for"):
            await connection.reply(1)

    connected(scenario)


def test_connection_is_dropped_unless_it_is_finishing():
    async def dropped(server):
        server.connection.close()
        return server.ended

    async def finished(server):
        server.connection.finish()
        server.connection.close()
        return server.ended

    assert connected(dropped) == "aborted "
    assert connected(finished) == "closed "
    SmtpConnection().close()


def test_connection_without_a_transport_is_left_alone_when_finished():
    connection = SmtpConnection()
    connection._finished = True
    connection.close()


def test_quit_says_so_and_never_fails():
    async def good(server):
        await SmtpSession(server.connection, "ours.example", "mx").quit()
        return server.written, server.ended

    async def lost(server):
        server.connection.connection_lost(None)
        await SmtpSession(server.connection, "ours.example", "mx").quit()
        return server.written, server.ended

    assert connected(good) == (b"QUIT\r\n", "closed ")
    assert connected(lost) == (b"", "")


def test_first_failure_is_the_one_that_is_told():
    async def scenario(server):
        server.connection.connection_lost(ConnectionResetError())
        server.connection.connection_lost(None)
        with pytest.raises(Unreachable, match=r"connection lost \(ConnectionResetError\)") as told:
            await server.connection.reply(1)
        assert told.value.kind == "connection"

    connected(scenario)


def test_writer_waits_while_the_other_side_takes_nothing(monkeypatch):
    monkeypatch.setattr(smtp_client, "STALL_SECONDS", 0)

    async def scenario(server):
        server.connection.pause_writing()
        with pytest.raises(Unreachable, match="took nothing") as told:
            await server.connection.send(b"x")
        assert told.value.kind == "timeout"
        server.connection.resume_writing()
        await server.connection.send(b"x")
        assert server.written == b"x"

    connected(scenario)


def test_reply_that_does_not_come_is_a_time_out():
    async def scenario(server):
        with pytest.raises(Unreachable, match="no reply within 0 s") as told:
            await server.connection.reply(0)
        assert told.value.kind == "timeout"

    connected(scenario)


def test_extensions_are_the_first_words_after_the_first_line():
    async def scenario(server):
        client = SmtpSession(server.connection, "ours.example", "mx")
        server.connection.data_received(b"220 x\r\n")
        await client.greet()
        assert server.lines == ["EHLO ours.example"]
        return client.extensions

    reply = b"250-STARTTLS hello\r\n250-size 100\r\n250 PIPELINING\r\n"
    assert connected(scenario, reply) == {"SIZE", "PIPELINING"}


@pytest.mark.parametrize("code", [219, 221, 250, 421, 554])
def test_greeting_is_220_and_nothing_else(code):
    async def scenario(server):
        server.connection.data_received(b"%d what\r\n" % code)
        with pytest.raises(Unreachable, match=f"{code} what") as told:
            await SmtpSession(server.connection, "ours.example", "mx").greet()
        assert told.value.kind == "answer"
        assert server.lines == []

    connected(scenario)


@pytest.mark.parametrize(
    ("address", "told"),
    [("192.0.2.1", "ADDR=192.0.2.1"), ("2001:db8::1", "ADDR=IPV6:2001:db8::1")],
)
def test_xclient_names_the_client(address, told):
    async def scenario(server):
        client = SmtpSession(server.connection, "ours.example", "mx")
        with pytest.raises(Unreachable, match="no XCLIENT offered"):
            await client.xclient(address)
        client.extensions = frozenset({"XCLIENT"})
        await client.xclient(address)
        assert server.lines == [f"XCLIENT NAME=[UNAVAILABLE] {told}", "EHLO ours.example"]
        assert client.extensions == {"SIZE"}

    connected(scenario, b"220 x\r\n", b"250-x\r\n250 SIZE\r\n")


def test_tls_needs_an_offer_and_one_reply():
    async def scenario(server):
        client = SmtpSession(server.connection, "ours.example", "mx")
        with pytest.raises(Unreachable, match="no STARTTLS offered") as told:
            await client.start_tls(None, "mx")
        assert told.value.kind == "tls"
        client.extensions = frozenset({"STARTTLS"})
        for rest in (b"250 x\r\n", b"25", b"250-x\r\n"):
            server.connection = SmtpConnection()
            server.connection.connection_made(server)
            client = SmtpSession(server.connection, "ours.example", "mx")
            client.extensions = frozenset({"STARTTLS"})
            server.replies = [b"220 go\r\n" + rest]
            with pytest.raises(Unreachable, match="more than one reply") as told:
                await client.start_tls(None, "mx")
            assert told.value.kind == "tls"

    connected(scenario)


def test_reply_of_no_command_is_a_temporary_failure():
    client = SmtpSession(SmtpConnection(), "ours.example", "mx")
    answers = {code: client._make_answer(Reply(code, ("x",))).code for code in range(200, 600)}
    passed = {*range(250, 260), *range(400, 600)}
    assert answers == {code: code if code in passed else 451 for code in range(200, 600)}


def test_connect_without_an_answer_tells_the_last_address(monkeypatch):
    async def nowhere():
        with pytest.raises(Unreachable, match="no address") as told:
            await smtp_client.connect([], 25)
        assert told.value.kind == "connection"
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            with pytest.raises(Unreachable, match=rf"\[127\.0\.0\.1\]:{port}: ") as told:
                await smtp_client.connect(["127.0.0.1"], port)
            assert told.value.kind == "connection"
            monkeypatch.setattr(smtp_client, "CONNECT_SECONDS", 0)
            with pytest.raises(Unreachable, match="did not answer within 0 s") as told:
                await smtp_client.connect(["127.0.0.1"], port)
            assert told.value.kind == "timeout"

    asyncio.run(nowhere())
