"""The server's side of Dovecot's dict protocol: lines to commands, values to replies. No I/O.

Version 3 (Dovecot 2.3) and version 4 (2.4) differ only in the number.
https://doc.dovecot.org/2.4.1/developers/design/dict_protocol.html
"""

import re
from collections.abc import Callable

VERSIONS = ("3", "4")
# "The maximum line the client is allowed to send a command is 65536."
MAX_LINE = 65536
# Dovecot opens one transaction at a time, and a transaction has one change.
MAX_TRANSACTIONS = 8
MAX_CHANGES = 64

# The tab-escaping that all of Dovecot's line protocols use.
ESCAPES = {"\0": "\x010", "\x01": "\x011", "\t": "\x01t", "\r": "\x01r", "\n": "\x01n"}
UNESCAPES = {escaped[1]: char for char, escaped in ESCAPES.items()}


class ProtocolError(Exception):
    """The client breaks the protocol. The text says how, and contains no bytes from the client."""


class Refused(Exception):
    """The service refuses a command. The text is for Dovecot's log."""


def escape(text: str) -> str:
    """Return text without the characters that separate fields and lines."""
    return re.sub(r"[\0\x01\t\r\n]", lambda match: ESCAPES[match[0]], text)


def unescape(text: str) -> str:
    """Return the text that `escape` was given. An unknown escape means its second character."""
    return re.sub(r"\x01(.?)", lambda match: UNESCAPES.get(match[1], match[1]), text)


class Conversation:
    """The state of one connection: the beginning of a line, and the open transactions.

    lookup: a function of (user, key) that returns the value or None.
    change: a function of (user, key, value), which a commit calls. The value None removes the key.
    Both functions may raise `Refused`.
    """

    def __init__(
        self,
        lookup: Callable[[str, str], str | None],
        change: Callable[[str, str, str | None], None],
    ):
        self._lookup, self._change = lookup, change
        self._partial = b""
        self._greeted = False
        self._transactions = {}
        # For each command: its function, and the allowed numbers of fields.
        self._commands = {
            "L": (self._look_up, (2,)),
            "I": (self._iterate, (4,)),
            "B": (self._begin, (2, 3)),
            "S": (self._set, (3,)),
            "U": (self._unset, (2,)),
            "C": (self._commit, (1,)),
            "R": (self._roll_back, (1,)),
        }

    def receive(self, data: bytes) -> bytes:
        """Return the replies to all commands that are complete with these bytes.

        Raises ProtocolError. The connection cannot be used after that.
        """
        *lines, self._partial = (self._partial + data).split(b"\n")
        if max(map(len, [*lines, self._partial])) >= MAX_LINE:
            raise ProtocolError(f"a line of {MAX_LINE} bytes or more")
        return b"".join(self._answer(line) for line in lines)

    def _answer(self, line):
        # Dovecot treats keys and values as bytes. Latin-1 can decode every byte.
        text = line.decode("latin-1")
        name, fields = text[:1], [unescape(field) for field in text[1:].split("\t")]
        if not self._greeted:
            return self._greet(name, fields)
        if name not in self._commands:
            raise ProtocolError("an unknown command")
        command, counts = self._commands[name]
        if len(fields) not in counts:
            raise ProtocolError(f"command {name} with {len(fields)} fields")
        return command(*fields)

    def _greet(self, name, fields):
        """Read `H<major> <minor> <type> <obsolete> <dict>`. Dovecot expects no reply."""
        if name != "H" or fields[0] not in VERSIONS:
            raise ProtocolError(f"no greeting of version {' or '.join(VERSIONS)}")
        self._greeted = True
        return b""

    def _look_up(self, key, user):
        try:
            value = self._lookup(user, key)
        except Refused as refusal:
            return _make_line("F", str(refusal))
        return _make_line("N") if value is None else _make_line("O", value)

    def _iterate(self, flags, maximum, path, user):
        """Answer an empty list, because Dovecot asks for every entry by its name."""
        return _make_line("")

    def _begin(self, identifier, user, expiry="0"):
        if len(self._transactions) >= MAX_TRANSACTIONS:
            raise ProtocolError(f"more than {MAX_TRANSACTIONS} transactions at once")
        self._transactions[identifier] = (user, [])
        return b""

    def _set(self, identifier, key, value):
        return self._remember(identifier, key, value)

    def _unset(self, identifier, key):
        return self._remember(identifier, key, None)

    def _remember(self, identifier, key, value):
        _, changes = self._transaction(identifier)
        if len(changes) >= MAX_CHANGES:
            raise ProtocolError(f"more than {MAX_CHANGES} changes in a transaction")
        changes.append((key, value))
        return b""

    def _commit(self, identifier):
        user, changes = self._transaction(identifier)
        del self._transactions[identifier]
        try:
            for key, value in changes:
                self._change(user, key, value)
        except Refused as refusal:
            return _make_line("F", identifier, str(refusal))
        return _make_line("O", identifier)

    def _roll_back(self, identifier):
        self._transaction(identifier)
        del self._transactions[identifier]
        return b""

    def _transaction(self, identifier):
        if identifier not in self._transactions:
            raise ProtocolError("a command for a transaction that was not begun")
        return self._transactions[identifier]


def _make_line(status, *fields):
    return (status + "\t".join(map(escape, fields)) + "\n").encode("latin-1", "replace")
