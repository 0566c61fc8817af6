"""The SMTP and LMTP protocols: from bytes to values and back. No I/O."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

END_OF_DATA = b"\r\n.\r\n"
# RFC 5321, 4.5.3.1.5 allows 512 bytes. Servers that put URLs into a refusal use more.
MAX_REPLY_LINE = 4096
MAX_REPLY_LINES = 200
# Bytes of all lines of one reply. The longest usual replies, to EHLO, have about 500 bytes.
MAX_REPLY = 16 * 1024
# The text of our own reply lines. A line has at most 512 bytes with CR LF (RFC 5321, 4.5.3.1.5).
MAX_TEXT = 480

ENHANCED_STATUS = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?= |$)")
# A mailbox of RFC 5321, 4.1.2, where the domain may have `_`. It cannot contain a space outside
# quotes, an angle bracket or a control character. These could end the command or begin a parameter.
QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
ATOMS = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+"
DOMAIN = r"[A-Za-z0-9._-]+|\[[A-Za-z0-9.:]+\]"
ADDRESS = re.compile(f"(?:{QUOTED}|{ATOMS})@(?:{DOMAIN})")
PATH = re.compile(rf"(?:FROM|TO): ?<(?P<address>(?:{ADDRESS.pattern})?)>(?P<parameters> .*)?", re.I)


class ProtocolError(Exception):
    """The other side sent something that the protocol does not allow."""


class Reply(NamedTuple):
    """One SMTP reply: the number and the text of its lines."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines as one text."""
        return " ".join(self.lines)

    def cut(self) -> "Reply":
        """Return the reply with a text that is short enough for an Answer."""
        return Reply(self.code, (self.text[:MAX_TEXT],))


class Answer(NamedTuple):
    """The answer for one recipient: 2xx delivered, 4xx try again later, 5xx failed for good."""

    code: int
    text: str

    @property
    def temporary(self) -> bool:
        """Whether to try again later."""
        return self.code // 100 == 4

    @property
    def delivered(self) -> bool:
        """Whether the other side accepted the message."""
        return self.code // 100 == 2

    def line(self) -> str:
        """Return the reply line in printable ASCII, within the length that RFC 5321 allows."""
        text = "".join(c if " " <= c <= "~" else "?" for c in self.text)
        return f"{self.code} {text[:MAX_TEXT]}"


def answer_from(reply: Reply, host: str) -> Answer:
    """Return an Answer with a host's reply, its enhanced status (RFC 3463) and its name."""
    kind = reply.code // 100
    text = reply.text
    found = ENHANCED_STATUS.match(text)
    if found and int(found[1]) == kind:
        status, said = found[0], text[found.end() :].strip()
    else:
        # A status of another class would contradict the reply code in Postfix's log.
        status, said = f"{kind}.0.0", text
    return Answer(reply.code, f"{status} {host} said: {reply.code} {said}")


class ReplyReader:
    """Collects bytes and returns complete replies (RFC 5321, 4.2)."""

    def __init__(self):
        self._buffer = b""
        self._lines: list[str] = []
        self._size = 0

    @property
    def empty(self) -> bool:
        """Whether the bytes so far were complete replies."""
        return not self._buffer and not self._lines

    def feed(self, data: bytes, most: int) -> list[Reply]:
        """Add bytes; return the replies that are complete now.

        most: the largest allowed number of these replies.
        Raises ProtocolError for a line that is not a reply, for a line or a reply that is too long,
        and for too many replies.
        """
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        replies = []
        for line in lines:
            if (reply := self._read_line(line)) is not None:
                replies.append(reply)
            if len(replies) > most:
                raise ProtocolError("sent replies that nothing asked for")
        if len(self._buffer.removesuffix(b"\r")) > MAX_REPLY_LINE:
            raise ProtocolError(f"reply line of more than {MAX_REPLY_LINE} octets")
        return replies

    def _read_line(self, line: bytes) -> Reply | None:
        line = line.rstrip(b"\r")
        match = re.fullmatch(rb"([2-5][0-9]{2})(?:([ -])(.*))?", line, re.S)
        self._size += len(line)
        if not match or len(line) > MAX_REPLY_LINE or len(self._lines) >= MAX_REPLY_LINES:
            raise ProtocolError("answered something that is no SMTP reply")
        if self._size > MAX_REPLY:
            raise ProtocolError(f"reply of more than {MAX_REPLY} octets")
        self._lines.append((match[3] or b"").decode("ascii", "replace").strip())
        if match[2] == b"-":
            return None
        reply = Reply(int(match[1]), tuple(self._lines))
        self._lines = []
        self._size = 0
        return reply


class DataReader:
    """Reads the message from the bytes after DATA (RFC 5321, 4.5.2).

    Only CR LF is a line end, and only CR LF . CR LF ends the message. Other bytes are not changed.
    """

    def __init__(self):
        # The CR LF of the DATA command comes before the first line.
        self._held = b"\r\n"
        self._skip = 2

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Add bytes. Return (bytes of the message, None) before the end of the message.

        At the end of the message, return the last bytes of the message and the bytes after its end.
        """
        data = self._held + data
        end = data.find(END_OF_DATA)
        if end >= 0:
            body, rest = data[: end + 2], data[end + len(END_OF_DATA) :]
        else:
            held = next(n for n in (4, 3, 2, 1, 0) if data.endswith(END_OF_DATA[:n]))
            body, rest = data[: len(data) - held], None
            self._held = data[len(data) - held :]
        body = body.replace(b"\r\n.", b"\r\n")
        skipped = body[self._skip :]
        self._skip -= min(self._skip, len(body))
        return skipped, rest


def stuff(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a message in the form for DATA, without the final dot (RFC 5321, 4.5.2).

    A message that does not end in CR LF gets one, because the dot must be on its own line.
    """
    tail = b"\r\n"
    for chunk in chunks:
        joined = tail + chunk
        yield joined.replace(b"\r\n.", b"\r\n..")[len(tail) :]
        tail = joined[-2:]
    if tail != b"\r\n":
        yield b"\r\n"


def has_bare_line_end(chunks: Iterable[bytes]) -> bool:
    """Return whether there is a CR without LF or an LF without CR (CVE-2023-51764)."""
    returns = feeds = pairs = 0
    last = b""
    for chunk in chunks:
        returns += chunk.count(b"\r")
        feeds += chunk.count(b"\n")
        pairs += (last + chunk).count(b"\r\n")
        last = chunk[-1:]
    return not returns == feeds == pairs


def parse_path(argument: str) -> tuple[str, str]:
    """Split the argument of MAIL or RCPT into the address and the parameters.

    Raises ProtocolError when the argument is not a path of RFC 5321, 4.1.2.
    """
    match = PATH.fullmatch(argument)
    if not match:
        raise ProtocolError("expected FROM:<address> or TO:<address>")
    return match["address"], (match["parameters"] or "").strip()


def is_address(address: str) -> bool:
    """Return whether a text may be between angle brackets in MAIL and RCPT."""
    return ADDRESS.fullmatch(address) is not None
