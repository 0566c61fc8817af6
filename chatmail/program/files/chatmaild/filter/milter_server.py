"""The milter protocol, version 6, as Postfix speaks it on a Unix socket.

Debian's libmilter is not used. It gives each command of a session to any of its threads, and its
binding for Python does not expect this: with Python 3.12 and later, Python then writes into freed
memory. Names and numbers are those of sendmail (include/libmilter/mfdef.h), and
https://www.postfix.org/MILTER_README.html
"""

import contextlib
import logging
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

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
    """Answer each connection in a thread of its own, for ever."""
    while True:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            # Without a descriptor for it, the session waits.
            log.error("no room for a session: %s", error)
            time.sleep(NO_ROOM_SECONDS)
            continue
        try:
            threading.Thread(target=_answer, args=(connection, new_session())).start()
        except RuntimeError as error:
            # Without a thread for it, Postfix answers 451.
            log.error("no room for a session: %s", error)
            connection.close()


def _answer(connection: socket.socket, session: Session) -> None:
    """Answer one connection until its end."""
    with connection, contextlib.closing(session):
        try:
            with connection.makefile("rb") as packets:
                _negotiate(connection, packets)
                _converse(connection, packets, session)
        except Unexpected as error:
            log.error("a client of the milter: %s", error)
        except OSError:
            pass  # Postfix has gone amid a message.
        except Exception as error:
            # The text of the error may quote the message, so only its kind and place are logged.
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error("a session broke: %s at %s", type(error).__name__, place)


def _negotiate(connection: socket.socket, packets: BinaryIO) -> None:
    """Agree on the version, the actions and the steps. Raises Unexpected."""
    command, data = _read(packets)
    if not command:
        return
    if command != b"O" or len(data) < 12:
        raise Unexpected("no negotiation at the start")
    version, actions, steps = struct.unpack(">III", data[:12])
    if version < VERSION or ~actions & ACTIONS or ~steps & STEPS:
        raise Unexpected(f"offers version {version}, actions {actions:#x}, steps {steps:#x} only")
    _write(connection, [b"O" + struct.pack(">III", VERSION, ACTIONS, STEPS)])


def _converse(connection: socket.socket, packets: BinaryIO, session: Session) -> None:
    """Answer commands until the end of the session. Raises Unexpected."""
    while True:
        command, data = _read(packets)
        if command == b"L":
            name, _, value = data.removesuffix(b"\0").partition(b"\0")
            session.header(name, value)
        elif command == b"B":
            session.body(data)
        elif command == b"M":
            _write(connection, [session.envfrom(data.partition(b"\0")[0])])
        elif command == b"R":
            _write(connection, [session.envrcpt(data.partition(b"\0")[0])])
        elif command == b"E":
            answer = session.eom()
            _write(connection, [*session.take_changes(), answer])
        elif command == b"A":
            session.abort()
        elif command in (b"", b"Q"):
            return
        elif command != b"D":  # macros, which nothing here uses
            raise Unexpected(f"the command {command!r}")


def _read(packets: BinaryIO) -> tuple[bytes, bytes]:
    """Return the command and the data of the next packet, both empty at the end of the connection.

    Raises Unexpected for a packet without a command, and for one that is too large.
    """
    length = packets.read(4)
    if len(length) < 4:
        return b"", b""
    (size,) = struct.unpack(">I", length)
    if not 0 < size <= MAX_PACKET:
        raise Unexpected(f"a packet of {size} bytes")
    packet = packets.read(size)
    if len(packet) < size:
        return b"", b""
    return packet[:1], packet[1:]


def _write(connection: socket.socket, packets: list[bytes]) -> None:
    connection.sendall(b"".join(struct.pack(">I", len(each)) + each for each in packets))
