"""The milter protocol, version 6, as Postfix speaks it on a Unix socket.

Debian's libmilter is not used. It gives each command of a session to any of its threads, and its
binding for Python does not expect this: with Python 3.12 and later, Python then writes into freed
memory. Names and numbers are those of sendmail (include/libmilter/mfdef.h), and
https://www.postfix.org/MILTER_README.html
"""

import collections
import functools
import logging
import selectors
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

VERSION = 6
# Session has a method for each of these actions.
ADD_FIELDS, REMOVE_RECIPIENTS, CHANGE_FIELDS, CHANGE_SENDER = 0x01, 0x08, 0x10, 0x40
ACTIONS = ADD_FIELDS | REMOVE_RECIPIENTS | CHANGE_FIELDS | CHANGE_SENDER
# Postfix leaves these steps out.
NO_CONNECT, NO_HELO, NO_END_OF_HEADER, NO_UNKNOWN, NO_DATA = 0x01, 0x02, 0x40, 0x100, 0x200
# Postfix waits for no answer to a field or a piece of the body: a large message has hundreds.
NO_REPLY_HEADER, NO_REPLY_BODY = 0x80, 0x80000
# The spaces before the value of a field stay, because signatures cover them.
LEADING_SPACE = 0x100000
STEPS = NO_CONNECT | NO_HELO | NO_END_OF_HEADER | NO_UNKNOWN | NO_DATA
STEPS |= NO_REPLY_HEADER | NO_REPLY_BODY | LEADING_SPACE
# Bytes of a packet. Postfix sends at most 64 KB of a body at once, and a field as a whole.
MAX_PACKET = 1 << 20
# Each SMTP session opens a connection. All processes of Postfix may connect at the same time.
BACKLOG = 1000
# Seconds until the next try when this process or the machine has no room for another session.
NO_ROOM_SECONDS = 0.1
# Bytes that are read from a session before it is the turn of the next one.
RECEIVE = 1 << 16
LENGTH = struct.Struct(">I")

CONTINUE, TEMPFAIL = b"c", b"t"
log = logging.getLogger(__name__)


class Session:
    """One SMTP session of Postfix. A subclass decides; methods that return bytes give an answer.

    An answer is CONTINUE, TEMPFAIL, or what `reply` returns. Values have no NUL.
    """

    def __init__(self) -> None:
        self._changes: list[bytes] = []

    def envfrom(self, sender: bytes) -> bytes:
        """Answer to MAIL FROM. sender: a path such as `<user@example.org>`."""
        raise NotImplementedError

    def envrcpt(self, recipient: bytes) -> bytes:
        """Answer to RCPT TO. recipient: a path."""
        raise NotImplementedError

    def header(self, name: bytes, value: bytes) -> None:
        """Take a field. value: with its leading space, and LF between folded lines."""
        raise NotImplementedError

    def body(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        raise NotImplementedError

    def eom(self) -> bytes:
        """Answer to the end of the message. Only this method may call the methods for changes."""
        raise NotImplementedError

    def takes_long(self) -> bool:
        """Return whether `eom` may take so long that other sessions should not wait for it."""
        raise NotImplementedError

    def abort(self) -> None:
        """Forget a message that the client or Postfix has given up."""
        raise NotImplementedError

    def close(self) -> None:
        """Forget the rest of a session that has ended in any way."""
        raise NotImplementedError

    def insert_field(self, index: int, name: bytes, value: bytes) -> None:
        """Insert a field. index: the number of fields before it."""
        self._changes.append(b"i%b%b\0%b\0" % (struct.pack(">I", index), name, value))

    def change_field(self, index: int, name: bytes, value: bytes) -> None:
        """Change a field, or with an empty value remove it. index: 1 for the first of this name."""
        self._changes.append(b"m%b%b\0%b\0" % (struct.pack(">I", index), name, value))

    def change_sender(self, sender: bytes) -> None:
        """Change the envelope sender. sender: a path."""
        self._changes.append(b"e%b\0" % sender)

    def remove_recipient(self, recipient: bytes) -> None:
        """Remove a recipient. recipient: the path as `envrcpt` got it."""
        self._changes.append(b"-%b\0" % recipient)

    def take_changes(self) -> list[bytes]:
        """Return the changes of a message as packets, and forget them."""
        changes, self._changes = self._changes, []
        return changes


class Unexpected(Exception):
    """The other side does not speak the protocol as Postfix does. The text says why."""


class Ended(Exception):
    """The session has ended."""


def reply(code: str, status: str | None, text: str) -> bytes:
    """Return the answer that makes Postfix send this SMTP reply.

    code: three digits. status: the enhanced status code (RFC 3463), None without one.
    text: printable ASCII. Postfix reads it as a format of printf, so each % is written twice.
    """
    words = [code, status, text.replace("%", "%%")] if status else [code, text.replace("%", "%%")]
    return b"y%b\0" % " ".join(words).encode("ascii")


def listen(path: Path) -> socket.socket:
    """Return a socket that listens on this path, for its owner and its group. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(BACKLOG)
    return listener


def serve(listener: socket.socket, new_session: Callable[[], Session]) -> None:
    """Answer all sessions, for ever.

    One thread reads the packets of all of them and answers. For an answer that may take long, a
    session gets a thread of its own.
    """
    _Server(listener, new_session).run()


class _Connection:
    """A connection with its session.

    fault: the exception that ended an answer in a thread of its own.
    """

    def __init__(self, sock: socket.socket, session: Session):
        self.socket, self.session = sock, session
        self.fault: Exception | None = None
        self._received, self._at = b"", 0
        self._agreed = False

    def receive(self) -> None:
        """Read some bytes. Raises Ended or OSError when the other side has gone."""
        received = self.socket.recv(RECEIVE)
        if not received:
            raise Ended
        self._received, self._at = self._received[self._at :] + received, 0

    def next_packet(self) -> tuple[bytes, bytes] | None:
        """Return the command and the data of the next packet, None when it is not there as a whole.

        Raises Unexpected for a packet without a command, and for one that is too large.
        """
        start = self._at + LENGTH.size
        if len(self._received) < start:
            return None
        (size,) = LENGTH.unpack_from(self._received, self._at)
        if not 0 < size <= MAX_PACKET:
            raise Unexpected(f"a packet of {size} bytes")
        if len(self._received) < start + size:
            return None
        self._at = start + size
        return self._received[start : start + 1], self._received[start + 1 : self._at]

    def answer(self, command: bytes, data: bytes) -> None:
        """Answer a packet. Raises Ended, Unexpected or OSError at the end of the session."""
        session = self.session
        if not self._agreed:
            self._agree(command, data)
        elif command == b"L":
            name, _, value = data.removesuffix(b"\0").partition(b"\0")
            session.header(name, value)
        elif command == b"B":
            session.body(data)
        elif command == b"M":
            self._write([session.envfrom(data.partition(b"\0")[0])])
        elif command == b"R":
            self._write([session.envrcpt(data.partition(b"\0")[0])])
        elif command == b"E":
            answer = session.eom()
            self._write([*session.take_changes(), answer])
        elif command == b"A":
            session.abort()
        elif command == b"Q":
            raise Ended
        elif command != b"D":  # macros, which nothing here uses
            raise Unexpected(f"the command {command!r}")

    def _agree(self, command: bytes, data: bytes) -> None:
        """Agree on the version, the actions and the steps. Raises Unexpected."""
        if command != b"O" or len(data) < 12:
            raise Unexpected("no negotiation at the start")
        version, actions, steps = struct.unpack(">III", data[:12])
        if version < VERSION or ~actions & ACTIONS or ~steps & STEPS:
            offer = f"version {version}, actions {actions:#x}, steps {steps:#x}"
            raise Unexpected(f"offers {offer} only")
        self._agreed = True
        self._write([b"O" + struct.pack(">III", VERSION, ACTIONS, STEPS)])

    def _write(self, packets: list[bytes]) -> None:
        # Postfix waits for each answer, so its socket always has room for a whole one.
        self.socket.sendall(b"".join(LENGTH.pack(len(each)) + each for each in packets))


class _Server:
    """The sessions of one listening socket."""

    def __init__(self, listener: socket.socket, new_session: Callable[[], Session]):
        self._listener, self._new_session = listener, new_session
        self._selector = selectors.DefaultSelector()
        # When new connections are accepted again, by time.monotonic(); None while they are.
        self._full_until: float | None = None
        # Connections that a thread gives back, and the pair of sockets that wakes this one.
        self._returned: collections.deque[_Connection] = collections.deque()
        self._woken, self._waker = socket.socketpair()

    def run(self) -> None:
        """Answer for ever."""
        self._listener.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._take_back)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        while True:
            for key, _ in self._selector.select(self._full_until and NO_ROOM_SECONDS):
                key.data()
            if self._full_until and time.monotonic() >= self._full_until:
                self._full_until = None
                self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return  # The client has gone again.
        except OSError as error:
            # Without a descriptor for it, the session waits.
            log.error("no room for a session: %s", error)
            self._selector.unregister(self._listener)
            self._full_until = time.monotonic() + NO_ROOM_SECONDS
            return
        self._await_packets(_Connection(sock, self._new_session()))

    def _await_packets(self, connection: _Connection) -> None:
        read = functools.partial(self._guarded, connection, self._read)
        self._selector.register(connection.socket, selectors.EVENT_READ, read)

    def _guarded(self, connection: _Connection, step: Callable[[_Connection], None]) -> None:
        """Take a step with a connection. After any exception the connection ends."""
        try:
            step(connection)
        except (Ended, OSError):
            self._end(connection)  # Postfix has said so, or has gone amid a message.
        except Unexpected as error:
            log.error("a client of the milter: %s", error)
            self._end(connection)
        except Exception as error:
            # The text of the error may quote the message, so only its kind and place are logged.
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error("a session broke: %s at %s", type(error).__name__, place)
            self._end(connection)

    def _read(self, connection: _Connection) -> None:
        connection.receive()
        self._answer(connection)

    def _answer(self, connection: _Connection) -> None:
        """Answer the packets that are there."""
        while packet := connection.next_packet():
            if packet[0] == b"E" and connection.session.takes_long():
                self._answer_in_thread(connection, packet)
                return
            connection.answer(*packet)

    def _answer_in_thread(self, connection: _Connection, packet: tuple[bytes, bytes]) -> None:
        """Let a thread answer a packet. Until it gives the connection back, nothing is read."""

        def answer() -> None:
            try:
                connection.answer(*packet)
            except Exception as error:
                connection.fault = error
            self._returned.append(connection)
            self._waker.send(b"!")

        self._selector.unregister(connection.socket)
        try:
            threading.Thread(target=answer).start()
        except RuntimeError as error:
            # Without a thread for it, Postfix answers 451.
            log.error("no room for a session: %s", error)
            raise Ended from None

    def _take_back(self) -> None:
        self._woken.recv(RECEIVE)
        while self._returned:
            self._guarded(self._returned.popleft(), self._go_on)

    def _go_on(self, connection: _Connection) -> None:
        if connection.fault:
            raise connection.fault
        self._await_packets(connection)
        self._answer(connection)

    def _end(self, connection: _Connection) -> None:
        if connection.socket in self._selector.get_map():
            self._selector.unregister(connection.socket)
        connection.session.close()
        connection.socket.close()
