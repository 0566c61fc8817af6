"""An SMTP client for one message at a time (RFC 5321).

python3-aiosmtplib cannot do this. Its versions in both releases (2.0 and 4.0) rewrite line ends in
the message, which breaks DKIM signatures. They hold the message four times in memory. They treat
text that came before TLS as an answer to a command inside TLS (RFC 3207, 6).
"""

import asyncio
import collections
import contextlib
import ipaddress
import socket
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

# Seconds for the TCP handshake and for the TLS handshake with one address.
CONNECT_SECONDS = 10
TLS_SECONDS = 15
# Seconds for the reply to a command. Some servers delay their greeting by 5 to 30 s.
REPLY_SECONDS = 45
# Seconds that the sending of a message may stand still.
STALL_SECONDS = 45
# Seconds for the reply to a complete message. The other side may ask DNS about our DKIM signature.
DATA_REPLY_SECONDS = 100
# The number of replies that may come without a command: the 421 of a server that is about to close
# (RFC 5321, 3.8). A server that sends more could fill our memory.
UNASKED_REPLIES = 1
# The number of commands that are sent at once (RFC 2920). Each reply has at most MAX_REPLY bytes,
# so the replies need at most 1.6 MB of memory.
PIPELINED = 100


class Unreachable(Exception):
    """The session failed before the message was handed over, so nothing was delivered.

    kind: "answer" when the server refused the session, else "timeout", "tls" or "connection".
    """

    def __init__(self, text: str, kind: str = "connection"):
        super().__init__(text)
        self.kind = kind


class Uncertain(Exception):
    """The complete message was sent and no reply came. The message may have been delivered."""


class SmtpConnection(asyncio.Protocol):
    """The connection of one session: it sends commands, reads replies, and starts TLS."""

    def __init__(self):
        self._reader = ReplyReader()
        self._replies: collections.deque[Reply] = collections.deque()
        # The number of replies that are still expected. The first one is the greeting.
        self._due = 1
        self._error: Exception | None = None
        self._event = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport = None
        self._finished = False

    def connection_made(self, transport):
        """Keep the transport. asyncio calls this method and the next four."""
        self._transport = transport

    def data_received(self, data):
        """Read replies from the received bytes."""
        if self._error:
            return  # asyncio may still hold bytes of a connection that was closed.
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
        """Wake the tasks that wait for a reply or for room to write."""
        self._fail(Unreachable(f"connection lost{f' ({type(exc).__name__})' if exc else ''}"))

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._event.set()
        self._writable.set()

    def pause_writing(self):
        """Make writers wait."""
        self._writable.clear()

    def resume_writing(self):
        """Let writers go on."""
        self._writable.set()

    async def reply(self, seconds: float) -> Reply:
        """Return the next reply, within a time in seconds. Raises Unreachable."""
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
        """Write bytes, after waiting while the other side reads nothing. Raises Unreachable.

        replies: the number of replies that these bytes ask for.
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
        """Start TLS after the server agreed. Raises Unreachable with OpenSSL's reason."""
        if self._replies or not self._reader.empty:
            # An attacker in between could answer our next commands (RFC 3207, 6).
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
        # Postfix sends its next reply when its session ticket is acknowledged. Linux would wait for
        # 40 ms with that (tcp(7)).
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def finish(self) -> None:
        """Close the connection when all written bytes have been sent."""
        self._transport.close()
        self._finished = True

    def close(self) -> None:
        """Close the connection at once, unless `finish` was called."""
        if self._transport is not None and not self._finished:
            self._transport.abort()


def tls_reason(error: Exception) -> str:
    """Return in a few words why TLS could not be started."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted ({error.verify_message})"
    return getattr(error, "reason", None) or type(error).__name__


class SmtpSession:
    """A session from the greeting to QUIT. A method that cannot go on raises Unreachable."""

    def __init__(self, connection: SmtpConnection, ehlo_name: str, host: str):
        self._connection = connection
        self._ehlo_name = ehlo_name
        self._host = host
        self.extensions: frozenset[str] = frozenset()

    async def greet(self) -> None:
        """Wait for the greeting and send EHLO."""
        self._require(await self._connection.reply(REPLY_SECONDS), 220)
        await self.hello()

    async def hello(self) -> None:
        """Send EHLO and note the server's extensions."""
        reply = self._require(await self._connection.command(f"EHLO {self._ehlo_name}"), 250)
        self.extensions = frozenset(line.split(" ")[0].upper() for line in reply.lines[1:])

    def _require(self, reply: Reply, code: int) -> Reply:
        """Return the reply if it has this code. Raises Unreachable otherwise."""
        if reply.code != code:
            raise Unreachable(f"{reply.code} {reply.text}", "answer")
        return reply

    async def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Start TLS.

        name: the name that the certificate must have, if the context verifies certificates.
        """
        if "STARTTLS" not in self.extensions:
            raise Unreachable("no STARTTLS offered", "tls")
        self._require(await self._connection.command("STARTTLS"), 220)
        await self._connection.start_tls(context, name)
        await self.hello()

    async def xclient(self, address: str) -> None:
        """Speak for the client with this IP address from now on (Postfix's XCLIENT)."""
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
        """Hand over one message; return the Answer for each recipient.

        all_or_none: deliver to no recipient when one is refused.
        may_end: a function that is called before the end of data is sent. If it returns False,
            nothing is delivered.
        Raises Unreachable, or Uncertain when no reply came to the complete message.
        """
        recipients = list(recipients)
        size = f" SIZE={message.size}" if "SIZE" in self.extensions else ""
        body = " BODY=8BITMIME" if "8BITMIME" in self.extensions else ""
        commands = [f"MAIL FROM:<{sender}>{size}{body}", *(f"RCPT TO:<{r}>" for r in recipients)]
        mail, *replies = await self._send_commands(commands)
        if mail.code != 250:
            return dict.fromkeys(recipients, self._make_answer(mail))
        # 251 means "will forward" (RFC 5321, 3.4).
        accepted = {
            r for r, reply in zip(recipients, replies, strict=True) if reply.code // 10 == 25
        }
        refused = {
            r: self._make_answer(reply)
            for r, reply in zip(recipients, replies, strict=True)
            if r not in accepted
        }
        if not accepted or (refused and all_or_none):
            return refused
        reply = await self._send_data(message, may_end)
        return refused | dict.fromkeys(accepted, self._make_answer(reply))

    async def _send_commands(self, commands: list[str]) -> list[Reply]:
        """Send commands, many at once if the server allows it (RFC 2920); return the replies."""
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

    async def _send_data(self, message: Message, may_end: Callable[[], bool]) -> Reply:
        reply = await self._connection.command("DATA")
        if reply.code != 354:
            if reply.code // 100 not in (4, 5):
                # If this counted as the answer to the message, the message would be lost.
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

    def _make_answer(self, reply: Reply) -> Answer:
        """Return the Answer for a reply. A reply that fits no command is a temporary failure."""
        if reply.code // 100 in (4, 5) or reply.code // 10 == 25:
            return answer_from(reply, self._host)
        return Answer(451, f"4.5.0 {self._host} answered {reply.code} where it may not")

    async def quit(self) -> None:
        """End the session. Errors are ignored, because the message has its answer already."""
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
