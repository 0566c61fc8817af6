"""What SMTP and LMTP share on the wire: bytes to values and back, no I/O."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

END_OF_DATA = b"\r\n.\r\n"
# RFC 5321, 4.5.3.1.5 allows 512 octets; servers that put URLs into a refusal use more.
MAX_REPLY_LINE = 4096
MAX_REPLY_LINES = 200
# All lines of one reply; the longest ones, to EHLO, have about 500 octets.
MAX_REPLY = 16 * 1024
# A reply line of our own: 512 octets with its CR LF (RFC 5321, 4.5.3.1.5).
MAX_TEXT = 480

ENHANCED_STATUS = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?= |$)")
# A mailbox of RFC 5321, 4.1.2, but with `_` in the domain. Nothing that could end the command,
# or begin a parameter, gets through: no bare space, no angle bracket, no control character.
QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
ATOMS = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+"
DOMAIN = r"[A-Za-z0-9._-]+|\[[A-Za-z0-9.:]+\]"
ADDRESS = re.compile(f"(?:{QUOTED}|{ATOMS})@(?:{DOMAIN})")
PATH = re.compile(rf"(?:FROM|TO): ?<(?P<address>(?:{ADDRESS.pattern})?)>(?P<parameters> .*)?", re.I)


class ProtocolError(Exception):
    """The other side sent what its protocol does not allow."""


class Reply(NamedTuple):
    """One SMTP reply: its three digits and the text of its lines."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines in one."""
        return " ".join(self.lines)

    def cut(self) -> "Reply":
        """Return it with as much text as an answer of ours has room for."""
        return Reply(self.code, (self.text[:MAX_TEXT],))


class Answer(NamedTuple):
    """What becomes of one recipient: 2xx delivered, 4xx try again later, 5xx never."""

    code: int
    text: str

    @property
    def temporary(self) -> bool:
        """Whether to try again later."""
        return self.code // 100 == 4

    @property
    def delivered(self) -> bool:
        """Whether the other side has it now."""
        return self.code // 100 == 2

    def line(self) -> str:
        """Return the reply line, printable ASCII and within RFC 5321's length."""
        text = "".join(c if " " <= c <= "~" else "?" for c in self.text)
        return f"{self.code} {text[:MAX_TEXT]}"


def answer_from(reply: Reply, host: str) -> Answer:
    """Pass a host's reply on, with its enhanced status first and its name (RFC 3463)."""
    kind = reply.code // 100
    text = reply.text
    found = ENHANCED_STATUS.match(text)
    if found and int(found[1]) == kind:
        status, said = found[0], text[found.end() :].strip()
    else:
        # A status of another class would contradict the code in Postfix's log.
        status, said = f"{kind}.0.0", text
    return Answer(reply.code, f"{status} {host} said: {reply.code} {said}")


class ReplyReader:
    """Collects bytes and gives whole replies (RFC 5321, 4.2)."""

    def __init__(self):
        self._buffer = b""
        self._lines: list[str] = []
        self._size = 0

    @property
    def empty(self) -> bool:
        """Whether nothing but whole replies has come so far."""
        return not self._buffer and not self._lines

    def feed(self, data: bytes, most: int) -> list[Reply]:
        """Take what was read; return the replies that it completes, at most so many.

        Raises ProtocolError for a line that is no reply, for an endless one, and for more replies.
        """
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        replies = []
        for line in lines:
            if (reply := self._line(line)) is not None:
                replies.append(reply)
            if len(replies) > most:
                raise ProtocolError("sent replies that nothing asked for")
        if len(self._buffer.removesuffix(b"\r")) > MAX_REPLY_LINE:
            raise ProtocolError(f"reply line of more than {MAX_REPLY_LINE} octets")
        return replies

    def _line(self, line: bytes) -> Reply | None:
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
    """Takes the octets that follow DATA and gives the message (RFC 5321, 4.5.2).

    Only CR LF is a line end, only CR LF . CR LF ends the message: what else is passed on as it is.
    """

    def __init__(self):
        # The CR LF of the DATA command itself stands before the first line.
        self._held = b"\r\n"
        self._skip = 2

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Take what was read.

        Returns the octets of the message that are certain by now, and None; or, once the end of
        data was seen, the last of them and what followed it.
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
    """Give a message as it goes after DATA, without the last line's dot (RFC 5321, 4.5.2).

    A message that does not end in CR LF gains one, since the dot must stand on its own line.
    """
    tail = b"\r\n"
    for chunk in chunks:
        joined = tail + chunk
        yield joined.replace(b"\r\n.", b"\r\n..")[len(tail) :]
        tail = joined[-2:]
    if tail != b"\r\n":
        yield b"\r\n"


def has_bare_line_end(chunks: Iterable[bytes]) -> bool:
    """Tell whether a CR or LF stands alone anywhere (SMTP smuggling, CVE-2023-51764)."""
    returns = feeds = pairs = 0
    last = b""
    for chunk in chunks:
        returns += chunk.count(b"\r")
        feeds += chunk.count(b"\n")
        pairs += (last + chunk).count(b"\r\n")
        last = chunk[-1:]
    return not returns == feeds == pairs


def parse_path(argument: str) -> tuple[str, str]:
    """Split the argument of MAIL or RCPT into the address and its parameters.

    Raises ProtocolError when it is no path of RFC 5321, 4.1.2.
    """
    match = PATH.fullmatch(argument)
    if not match:
        raise ProtocolError("expected FROM:<address> or TO:<address>")
    return match["address"], (match["parameters"] or "").strip()


def is_address(address: str) -> bool:
    """Tell whether this can stand between angle brackets in MAIL and RCPT."""
    return ADDRESS.fullmatch(address) is not None
