"""An SMTP client for one message at a time (RFC 5321).

Not python3-aiosmtplib: both releases' versions (2.0 and 4.0) rewrite line ends in the message,
which breaks DKIM; hold it four times in memory; and keep what came in clear text before TLS as an
answer to what is asked within it (RFC 3207, 6).
"""

import asyncio
import collections
import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Iterable

from chatmaild.message.spool import Message
from chatmaild.transport.smtp_protocol import (
    Answer,
    ProtocolError,
    Reply,
    ReplyReader,
    answer_from,
    stuff,
)

# One address: TCP handshake; TLS handshake.
CONNECT_SECONDS = 10
TLS_SECONDS = 15
# One reply to a command. Servers that delay their greeting wait 5 to 30 s.
REPLY_SECONDS = 45
# How long a message may make no progress at all.
STALL_SECONDS = 45
# The reply to a whole message: the other side may be asking DNS about our DKIM signature.
DATA_REPLY_SECONDS = 100
# Replies that may come before they are asked for: the 421 of a server that is about to close
# (RFC 5321, 3.8). Whoever sends more fills our memory.
UNASKED_REPLIES = 1
# Commands sent at once (RFC 2920); their replies are at most so often MAX_REPLY octets, 1.6 MB.
PIPELINED = 100


class Unreachable(Exception):
    """No session, or one that ended before the message was handed over: nothing was delivered.

    kind: "answer" where the server did not want to, else "timeout", "tls" or "connection".
    """

    def __init__(self, text: str, kind: str = "connection"):
        super().__init__(text)
        self.kind = kind


class Uncertain(Exception):
    """The whole message went out and no reply came: it may have been delivered."""


class SmtpConnection(asyncio.Protocol):
    """The octets of one session: replies one by one, writes with back-pressure, STARTTLS."""

    def __init__(self):
        self._reader = ReplyReader()
        self._replies: collections.deque[Reply] = collections.deque()
        # Replies that are still to come; the greeting is the first.
        self._due = 1
        self._error: Exception | None = None
        self._event = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport = None
        self._finished = False

    def connection_made(self, transport):
        """Keep the transport; asyncio calls this and the next four."""
        self._transport = transport

    def data_received(self, data):
        """Take octets in."""
        if self._error:
            return  # What is closed may still have a buffer of it.
        try:
            replies = self._reader.feed(data, self._due + UNASKED_REPLIES)
        except ProtocolError as error:
            self._fail(Unreachable(str(error)))
            self._transport.abort()
        else:
            self._replies.extend(replies)
            self._due -= len(replies)
        self._event.set()

    def connection_lost(self, exc):
        """Wake whoever waits for a reply or for room."""
        self._fail(Unreachable(f"connection lost{f' ({type(exc).__name__})' if exc else ''}"))

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._event.set()
        self._writable.set()

    def pause_writing(self):
        """Let writers wait."""
        self._writable.clear()

    def resume_writing(self):
        """Let writers go on."""
        self._writable.set()

    async def reply(self, seconds: float) -> Reply:
        """Return the next reply. Raises Unreachable."""
        try:
            async with asyncio.timeout(seconds):
                while not self._replies:
                    if self._error:
                        raise self._error
                    self._event.clear()
                    await self._event.wait()
        except TimeoutError:
            raise Unreachable(f"no reply within {seconds:.0f} s", "timeout") from None
        return self._replies.popleft()

    async def send(self, data: bytes, replies: int = 0) -> None:
        """Write octets, and wait while the other side takes none. Raises Unreachable.

        replies: how many they ask for.
        """
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await self._writable.wait()
        except TimeoutError:
            raise Unreachable(f"took nothing for {STALL_SECONDS} s", "timeout") from None
        if self._error:
            raise self._error
        self._due += replies
        self._transport.write(data)

    async def command(self, line: str) -> Reply:
        """Send one command and return its reply. Raises Unreachable."""
        await self.send(f"{line}\r\n".encode("ascii"), replies=1)
        return await self.reply(REPLY_SECONDS)

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Go on in TLS once the server agreed. Raises Unreachable, with the reason of OpenSSL."""
        if self._replies or not self._reader.empty:
            # Whoever sits in between could answer our next commands (RFC 3207, 6).
            raise Unreachable("more than one reply to STARTTLS", "tls")
        loop = asyncio.get_running_loop()
        try:
            self._transport = await loop.start_tls(
                self._transport,
                self,
                context,
                server_hostname=name,
                ssl_handshake_timeout=TLS_SECONDS,
            )
        except (OSError, ValueError) as error:  # ValueError: a name that no certificate can have
            raise Unreachable(f"TLS failed: {tls_reason(error)}", "tls") from None
        if self._transport is None:
            raise Unreachable("TLS failed: connection lost", "tls")

    def finish(self) -> None:
        """Close once what was written has gone out."""
        self._transport.close()
        self._finished = True

    def close(self) -> None:
        """Drop the connection with what was not written yet, unless it is finishing."""
        if self._transport is not None and not self._finished:
            self._transport.abort()


def tls_reason(error: Exception) -> str:
    """Say in a few words why a TLS session did not come about."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted ({error.verify_message})"
    return getattr(error, "reason", None) or type(error).__name__


class SmtpSession:
    """A session from greeting to QUIT. Every method raises Unreachable when it cannot go on."""

    def __init__(self, connection: SmtpConnection, ehlo_name: str, host: str):
        self._connection = connection
        self._ehlo_name = ehlo_name
        self._host = host
        self.extensions: frozenset[str] = frozenset()

    async def greet(self) -> None:
        """Wait for the greeting and say EHLO."""
        self._require(await self._connection.reply(REPLY_SECONDS), 220)
        await self.hello()

    async def hello(self) -> None:
        """Say EHLO and note what the server offers."""
        reply = self._require(await self._connection.command(f"EHLO {self._ehlo_name}"), 250)
        self.extensions = frozenset(line.split(" ")[0].upper() for line in reply.lines[1:])

    def _require(self, reply: Reply, code: int) -> Reply:
        """Return the reply if it has the code; a session that is refused delivers nothing."""
        if reply.code != code:
            raise Unreachable(f"{reply.code} {reply.text}", "answer")
        return reply

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Continue in TLS; `name` is what the certificate must have, if the context verifies."""
        if "STARTTLS" not in self.extensions:
            raise Unreachable("no STARTTLS offered", "tls")
        self._require(await self._connection.command("STARTTLS"), 220)
        await self._connection.start_tls(context, name)
        await self.hello()

    async def xclient(self, address: str) -> None:
        """Speak for the client with this IP from now on (Postfix's XCLIENT)."""
        if "XCLIENT" not in self.extensions:
            raise Unreachable("no XCLIENT offered: smtpd_authorized_xclient_hosts must name us")
        prefix = "IPV6:" if ipaddress.ip_address(address).version == 6 else ""
        command = f"XCLIENT NAME=[UNAVAILABLE] ADDR={prefix}{address}"
        self._require(await self._connection.command(command), 220)
        await self.hello()

    async def deliver(
        self,
        sender: str,
        recipients: Iterable[str],
        message: Message,
        all_or_none: bool = False,
        may_end: Callable[[], bool] = lambda: True,
    ) -> dict[str, Answer]:
        """Hand over one message.

        all_or_none: deliver to nobody once one recipient is refused.
        may_end: asked when all is sent but the end of data; if not, nothing is delivered.
        Returns what became of each recipient. Raises Unreachable, or Uncertain when the reply to
        the whole message did not come.
        """
        recipients = list(recipients)
        size = f" SIZE={message.size}" if "SIZE" in self.extensions else ""
        body = " BODY=8BITMIME" if "8BITMIME" in self.extensions else ""
        commands = [f"MAIL FROM:<{sender}>{size}{body}", *(f"RCPT TO:<{r}>" for r in recipients)]
        mail, *replies = await self._commands(commands)
        if mail.code != 250:
            return dict.fromkeys(recipients, self._answer(mail))
        # 251 is "will forward" (RFC 5321, 3.4).
        accepted = {
            r for r, reply in zip(recipients, replies, strict=True) if reply.code // 10 == 25
        }
        refused = {
            r: self._answer(reply)
            for r, reply in zip(recipients, replies, strict=True)
            if r not in accepted
        }
        if not accepted or (refused and all_or_none):
            return refused
        return refused | dict.fromkeys(accepted, self._answer(await self._data(message, may_end)))

    async def _commands(self, commands: list[str]) -> list[Reply]:
        """Send commands, all at once where the server lets us (RFC 2920)."""
        if "PIPELINING" not in self.extensions:
            mail = await self._connection.command(commands[0])
            if mail.code != 250:
                return [mail]
            return [mail, *[(await self._connection.command(c)).cut() for c in commands[1:]]]
        replies = []
        for start in range(0, len(commands), PIPELINED):
            batch = commands[start : start + PIPELINED]
            octets = "".join(f"{line}\r\n" for line in batch).encode("ascii")
            await self._connection.send(octets, replies=len(batch))
            replies += [(await self._connection.reply(REPLY_SECONDS)).cut() for _ in batch]
        return replies

    async def _data(self, message: Message, may_end: Callable[[], bool]) -> Reply:
        reply = await self._connection.command("DATA")
        if reply.code != 354:
            if reply.code // 100 not in (4, 5):
                # Taken for the answer to the message it would lose the message.
                raise Unreachable(f"answered {reply.code} to DATA", "answer")
            return reply
        for chunk in stuff(message.chunks()):
            await self._connection.send(chunk)
        if not may_end():
            raise Unreachable("given up before the end of the message")
        await self._connection.send(b".\r\n", replies=1)
        try:
            return await self._connection.reply(DATA_REPLY_SECONDS)
        except Unreachable as error:
            raise Uncertain(f"{error} after the whole message") from None

    def _answer(self, reply: Reply) -> Answer:
        """Pass a reply on; one that fits no command here is a temporary failure."""
        if reply.code // 100 in (4, 5) or reply.code // 10 == 25:
            return answer_from(reply, self._host)
        return Answer(451, f"4.5.0 {self._host} answered {reply.code} where it may not")

    async def quit(self) -> None:
        """Take leave. The message has its answer already, so nothing here can fail."""
        with contextlib.suppress(Unreachable):
            await self._connection.send(b"QUIT\r\n")
            self._connection.finish()


async def connect(addresses: Iterable[str], port: int) -> SmtpConnection:
    """Connect to the first of a host's addresses that answers. Raises Unreachable."""
    loop = asyncio.get_running_loop()
    reason, kind = "no address", "connection"
    for address in addresses:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(SmtpConnection, address, port)
        except TimeoutError:
            reason = f"[{address}]:{port} did not answer within {CONNECT_SECONDS} s"
            kind = "timeout"
        except OSError as error:
            reason = f"[{address}]:{port}: {error.strerror or type(error).__name__}"
            kind = "connection"
        else:
            return connection
    raise Unreachable(reason, kind)
