"""The LMTP server (RFC 2033) on a Unix socket. Postfix hands it messages.

The server never takes responsibility for a message: its replies after DATA are the results of the
deliveries. python3-aiosmtpd cannot do this: it has one reply for all recipients, refuses lines of
more than 998 bytes, and holds a message as a list of its lines.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from chatmaild.message.spool import Message
from chatmaild.transport.smtp_protocol import Answer, DataReader, ProtocolError, parse_path

# RFC 5321, 4.5.3.1.4 allows 512 bytes, and extensions may need more.
MAX_LINE = 4096
READ_SIZE = 64 * 1024
MAX_RECIPIENTS = 1000
# Postfix keeps a connection for its next message for a few seconds at most.
IDLE_SECONDS = 60
# While the server stops, a client whose delivery has ended may still send QUIT.
QUIT_SECONDS = 1
# Postfix writes without pauses; its lmtp_data_xfer_timeout is 180 s.
DATA_SECONDS = 180
# Seconds that a stop waits for deliveries. systemd waits longer: TimeoutStopSec=75 in the unit.
STOP_SECONDS = 60

EXTENSIONS = ("PIPELINING", "8BITMIME", "SIZE", "ENHANCEDSTATUSCODES")
Start = Callable[[str, list[str], Message], dict[str, asyncio.Task]]
log = logging.getLogger(__name__)


class Gone(Exception):
    """The client closed the connection, or was silent for too long."""


class _Input:
    """The bytes from the client, as lines or as pieces."""

    def __init__(self, reader: asyncio.StreamReader):
        self._reader = reader
        self._buffer = b""

    async def read(self, seconds: float) -> bytes:
        """Return the bytes that have come, at least one. Raises Gone."""
        if not self._buffer:
            return await self._receive(seconds)
        data, self._buffer = self._buffer, b""
        return data

    async def _receive(self, seconds: float | None) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                data = await self._reader.read(READ_SIZE)
        except OSError:  # TimeoutError is one.
            raise Gone from None
        if not data:
            raise Gone
        return data

    def put_back(self, data: bytes) -> None:
        """Put bytes back, so that the next read begins with them."""
        self._buffer = data + self._buffer

    async def line(self, seconds: float) -> str:
        """Return the next command without its line end. Raises Gone, ProtocolError."""
        data = b""
        while b"\n" not in data:
            if len(data) > MAX_LINE:
                raise ProtocolError("line too long")
            data += await self.read(seconds)
        line, _, rest = data.partition(b"\n")
        self.put_back(rest)
        return line.rstrip(b"\r").decode("ascii", "replace")

    async def until_gone(self) -> None:
        """Wait until the client has closed the connection. Bytes that come meanwhile are kept.

        Postfix sends QUIT together with the end of data (RFC 2920), and waits for the replies.
        """
        with contextlib.suppress(Gone):
            while len(self._buffer) < READ_SIZE:
                self._buffer += await self._receive(None)


class LmtpServer:
    """Serves LMTP sessions.

    start: a function that begins a delivery and returns {recipient: task}. The result of a task
        has the Answer of the recipient.
    name: the name in the greeting. max_size: the largest size of a message in bytes.
    spool: the directory for large messages (see Message).
    """

    def __init__(self, start: Start, name: str, max_size: int, spool: str):
        self.start = start
        self.name = name
        self.max_size = max_size
        self.spool = spool
        self._server: asyncio.Server | None = None
        self._sessions: dict[asyncio.Task, _Session] = {}

    async def listen(self, path: str) -> None:
        """Open the socket. The permissions of its directory decide who may connect."""
        self._server = await asyncio.start_unix_server(self._serve, path, backlog=1024)

    async def _serve(self, reader, writer) -> None:
        session = _Session(_Input(reader), writer, self)
        task = asyncio.current_task()
        self._sessions[task] = session
        try:
            await session.run()
        except (Gone, ConnectionError, asyncio.CancelledError):
            pass  # Postfix keeps a message that got no reply.
        except Exception as error:
            log.error("LMTP session broke: %s", type(error).__name__)
        finally:
            del self._sessions[task]
            writer.close()

    async def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Accept no new message, wait for the deliveries, and cancel those that take longer.

        seconds: the time that deliveries have.
        A cancelled delivery gets no reply, so Postfix keeps the message.
        """
        self._server.close()
        for task, session in self._sessions.items():
            session.stopping = True
            if not session.delivering:
                task.cancel()
        if self._sessions:
            _, left = await asyncio.wait(self._sessions, timeout=seconds)
            for task in left:
                task.cancel()
            if left:
                log.warning("stopped during %d deliveries; Postfix will try again", len(left))
                await asyncio.wait(left)


class _Session:
    """One session: the state of its transaction and its commands."""

    def __init__(self, input_: _Input, writer: asyncio.StreamWriter, server: LmtpServer):
        self._input = input_
        self.stopping = False
        self.delivering = False
        self.sender: str | None = None
        self.recipients: list[str] = []
        self._greeted = False
        self._writer = writer
        self._server = server

    async def run(self) -> None:
        """Serve until QUIT. Raises Gone, ConnectionError."""
        await self.reply(f"220 {self._server.name} LMTP")
        commands = {
            "LHLO": self._lhlo,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "RSET": self._rset,
            "NOOP": lambda _: "250 2.0.0 ok",
            "VRFY": lambda _: "252 2.0.0 not verified",
        }
        while True:
            seconds = QUIT_SECONDS if self.stopping else IDLE_SECONDS
            try:
                verb, _, argument = (await self._input.line(seconds)).partition(" ")
            except ProtocolError as error:
                return await self.reply(f"500 5.5.2 {error}")
            verb = verb.upper()
            if verb == "QUIT":
                return await self.reply("221 2.0.0 bye")
            if verb == "DATA":
                await self._data()
            elif verb in commands:
                await self.reply(commands[verb](argument))
            else:
                await self.reply("500 5.5.1 unknown command")

    async def reply(self, text: str) -> None:
        """Send a reply of one or more lines."""
        lines = text.replace("\n", "\r\n").encode("ascii", "replace")
        self._writer.write(lines + b"\r\n")
        await self._writer.drain()

    def _rset(self, _argument: str = "") -> str:
        self.sender = None
        self.recipients = []
        return "250 2.0.0 reset"

    def _lhlo(self, _argument: str) -> str:
        self._rset()
        self._greeted = True
        *lines, last = (self._server.name, *EXTENSIONS)
        return "".join(f"250-{line}\n" for line in lines) + f"250 {last}"

    def _mail(self, argument: str) -> str:
        if self.stopping:
            return "421 4.3.2 stopping"
        if not self._greeted or self.sender is not None:
            return "503 5.5.1 expected LHLO first, and MAIL once"
        try:
            self.sender, _ = parse_path(argument)
        except ProtocolError as error:
            return f"501 5.1.7 {error}"
        return "250 2.1.0 ok"

    def _rcpt(self, argument: str) -> str:
        if self.sender is None:
            return "503 5.5.1 expected MAIL first"
        if len(self.recipients) >= MAX_RECIPIENTS:
            return f"452 4.5.3 more than {MAX_RECIPIENTS} recipients"
        try:
            address, _ = parse_path(argument)
        except ProtocolError as error:
            return f"501 5.1.3 {error}"
        if not address:
            return "501 5.1.3 a recipient cannot be empty"
        self.recipients.append(address)
        return "250 2.1.5 ok"

    async def _data(self) -> None:
        if not self.recipients:
            return await self.reply("503 5.5.1 no valid recipients")
        await self.reply("354 end with a dot")
        with Message(self._server.spool) as message:
            failure = await self._receive(message)
            if failure:
                for _ in self.recipients:
                    await self.reply(failure.line())
            else:
                await self._deliver(message)
        self._rset()
        return None

    async def _deliver(self, message: Message) -> None:
        """Deliver to all recipients, and reply for each in the order of RCPT (RFC 2033, 4.2)."""
        self.delivering = True
        tasks = self._server.start(self.sender, self.recipients, message)
        gone = asyncio.create_task(self._input.until_gone())
        try:
            for recipient in self.recipients:
                task = tasks[recipient]
                await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not task.done():
                    # The client has gone. Postfix will hand over the message again, so this
                    # delivery must not go on.
                    raise Gone
                await self.reply(task.result()[recipient].line())
        finally:
            for task in {gone, *tasks.values()}:
                task.cancel()
            await asyncio.gather(gone, *tasks.values(), return_exceptions=True)
            self.delivering = False

    async def _receive(self, message: Message) -> Answer | None:
        """Read the message to its end. Returns the refusal, or None when the message is good."""
        data = DataReader()
        failure = rest = None
        while rest is None:
            octets, rest = data.feed(await self._input.read(DATA_SECONDS))
            if failure is None and message.size + len(octets) > self._server.max_size:
                failure = Answer(552, f"5.3.4 more than {self._server.max_size} octets")
            if failure is None:
                try:
                    message.write(octets)
                except OSError as error:
                    log.error("cannot keep a message aside: %s", error.strerror)
                    failure = Answer(452, "4.3.1 no room to keep the message aside")
        self._input.put_back(rest)
        return failure
