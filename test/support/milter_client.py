"""Speaks the milter protocol (version 6) as Postfix does, to a filter on a Unix socket."""

import socket
import struct
from pathlib import Path
from typing import NamedTuple

ACTIONS = 0x1FF  # all changes are allowed
# The filter may skip each protocol step or leave it unanswered, and leading spaces may stay.
STEPS = 0x1FFFFF
NO_REPLY_HEADER, NO_REPLY_BODY, LEADING_SPACE = 0x80, 0x80000, 0x100000
SKIPPED = {"C": 0x1, "H": 0x2, "T": 0x200, "N": 0x40}

CHUNK = 65535
SECONDS = 60


class Outcome(NamedTuple):
    """The result of a message.

    reply: the SMTP reply of a refusal, "" for an accepted message. removed: recipients that the
    filter has removed.
    """

    reply: str
    sender: str
    fields: list[tuple[bytes, bytes]]
    body: bytes
    removed: tuple[str, ...] = ()

    @property
    def raw(self) -> bytes:
        header = b"".join(b"%b:%b\r\n" % field for field in self.fields)
        return header + b"\r\n" + self.body


class Rejected(Exception):
    """The filter refused a command before the end of the message. The text is the SMTP reply."""


class MilterClient:
    """The connection of one SMTP session to a milter."""

    def __init__(self, path: Path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SECONDS)
        self._socket.connect(str(path))
        self._send("O", struct.pack(">III", 6, ACTIONS, STEPS))
        command, data = self._receive()
        assert command == "O"
        _, self.actions, self.steps = struct.unpack(">III", data[:12])
        self._send_step("C", b"client\0" + b"4" + struct.pack(">H", 25) + b"192.0.2.7\0")
        self._send_step("H", b"client.example.org\0")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self._send("Q")
        self._socket.close()

    def message(
        self, sender: str, recipients: list[str], fields: list[tuple[bytes, bytes]], body: bytes
    ) -> Outcome:
        """Send a whole message. Raises Rejected if the filter refuses an earlier command."""
        self.mail(sender)
        for recipient in recipients:
            self.recipient(recipient)
        return self.data(fields, body, sender)

    def mail(self, sender: str) -> None:
        self._command("M", f"<{sender}>".encode() + b"\0")

    def recipient(self, recipient: str) -> None:
        self._command("R", f"<{recipient}>".encode() + b"\0")

    def abort(self) -> None:
        self._send("A")

    def data(self, fields, body: bytes, sender: str = "") -> Outcome:
        self._send_step("T", b"")
        for name, value in fields:
            assert self.steps & LEADING_SPACE
            self._send("L", name + b"\0" + value.replace(b"\r\n", b"\n") + b"\0")
            if not self.steps & NO_REPLY_HEADER:
                self._expect_continue()
        self._send_step("N", b"")
        for start in range(0, len(body), CHUNK):
            self._send("B", body[start : start + CHUNK])
            if not self.steps & NO_REPLY_BODY:
                self._expect_continue()
        self._send("E")
        return self._end(list(fields), body, sender)

    def _end(self, fields, body: bytes, sender: str) -> Outcome:
        removed = []
        while True:
            command, data = self._receive()
            if command in "ca":
                kept = [field for field in fields if field is not None]
                return Outcome("", sender, kept, body, tuple(removed))
            if command in "rty":
                return Outcome(_reply(command, data), sender, [], b"")
            if command == "e":
                sender = data.split(b"\0")[0].decode().strip("<>")
            elif command == "-":
                removed.append(data.rstrip(b"\0").decode().strip("<>"))
            elif command in "im":
                _change(command, fields, data)
            else:
                raise AssertionError(f"unexpected {command}")

    def _command(self, command: str, data: bytes) -> None:
        self._send(command, data)
        answer, text = self._receive()
        if answer in "rty":
            raise Rejected(_reply(answer, text))
        assert answer == "c"

    def _send_step(self, command: str, data: bytes) -> None:
        if not self.steps & SKIPPED[command]:
            self._command(command, data)

    def _expect_continue(self) -> None:
        assert self._receive()[0] == "c"

    def _send(self, command: str, data: bytes = b"") -> None:
        self._socket.sendall(struct.pack(">I", len(data) + 1) + command.encode() + data)

    def _receive(self) -> tuple[str, bytes]:
        (length,) = struct.unpack(">I", self._read(4))
        packet = self._read(length)
        return packet[:1].decode(), packet[1:]

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._socket.recv(length - len(data))
            if not piece:
                raise ConnectionError("the milter closed the connection")
            data += piece
        return data


def _reply(command: str, data: bytes) -> str:
    """Return the SMTP reply; Postfix undoes the doubling of % (milter(8) reply codes)."""
    if command == "y":
        return data.rstrip(b"\0").decode().replace("%%", "%")
    return {"r": "550 5.7.1 Command rejected", "t": "451 4.7.1 Service unavailable"}[command]


def _change(command: str, fields: list, data: bytes) -> None:
    """Insert or change a field. A removed field becomes None, so that no other field moves."""
    (index,) = struct.unpack(">I", data[:4])
    name, value = data[4:].split(b"\0")[:2]
    value = value.replace(b"\n", b"\r\n")
    if command == "i":
        fields.insert(index, (name, value))
        return
    same = [n for n, field in enumerate(fields) if field and field[0].lower() == name.lower()]
    fields[same[index - 1]] = (name, value) if value else None
