"""The four milters: what Postfix hands over, the rules asked, what Postfix is told to change."""

import contextlib
import functools
import logging
import os
import threading

import Milter

from chatmaild.common.addresses import is_address
from chatmaild.common.federation import Federation
from chatmaild.common.rate_limit import RateLimit
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import signing, verifying
from chatmaild.filter import rules
from chatmaild.message.mime import Field
from chatmaild.metrics import counters

log = logging.getLogger(__name__)

# Far above what mail programs write (a key in Autocrypt: 10 KB), far below what costs time.
MAX_FIELDS = 1000
MAX_HEADER = 512 * 1024
# What libmilter takes as one line of a reply (MAXREPLYLEN, 980), each % doubled.
MAX_REPLY, MAX_REPLY_ESCAPED = 500, 900
# Octets of all messages that one process holds at once; while they are looked at, copies of them
# take about as much again two or three times (services/files/chatmail-filter.service.jinja). One
# message of the largest size always has room.
MAX_IN_FLIGHT = 96 * 1024 * 1024


def guarded(callback):
    """Turn a Refusal into its SMTP reply, and any other exception into "try again later".

    Nothing that fails here lets a message pass. An exception's text may quote the message, so only
    its name and place are logged.
    """

    @functools.wraps(callback)
    def guard(self, *arguments):
        try:
            callback(self, *arguments)
        except Refusal as refusal:
            return self.refuse(refusal)
        except Exception as error:
            place = error.__traceback__
            while place.tb_next:
                place = place.tb_next
            where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
            log.error("%s at %s; the message has to wait", type(error).__name__, where)
            counters.count("chatmail_filter_failures_total")
            return Milter.TEMPFAIL
        return Milter.CONTINUE

    return guard


class InFlight:
    """Counts the octets that all sessions hold, up to a limit."""

    def __init__(self, most: int):
        self._most = most
        self._held = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Have so many more, or return False and leave it be."""
        with self._lock:
            if self._held + size > self._most:
                return False
            self._held += size
            return True

    def give_back(self, size: int) -> None:
        """Hold so many less."""
        with self._lock:
            self._held -= size


class SharedState:
    """What all sessions of a role share.

    settings: as `/etc/chatmail/relay.json` holds them.
    keys: those that sign, None on a relay that neither signs nor verifies.
    lookup: TXT records of DNS.
    """

    def __init__(
        self, settings: dict, keys: signing.KeyRing | None, lookup: verifying.Lookup | None
    ):
        self.mail_domain: str = settings["mail_domain"]
        self.keys, self.lookup = keys, lookup
        self.federation = Federation(settings)
        self.rate_limit = RateLimit(
            settings["max_user_send_per_minute"], settings["max_user_send_burst_size"]
        )
        self.in_flight = InFlight(max(MAX_IN_FLIGHT, settings["max_message_size"]))
        self._address_domain: str = settings["address_domain"]
        self._mailboxes = settings["mailboxes_dir"]

    def has_mailbox(self, address: str) -> bool:
        """Return whether the address is one that mail goes to and comes from.

        One whose password file is empty is blocked. Raises OSError when that cannot be told.
        """
        return is_address(address, self._address_domain) and bool(self._size(address, "password"))

    def takes_cleartext(self, address: str) -> bool:
        """Return whether there is the address, and its owner wants cleartext mail, too."""
        return self.has_mailbox(address) and self._size(address, "enforceE2EEincoming") is None

    def _size(self, address: str, name: str) -> int | None:
        """Return the size of a file of an address, None where there is none."""
        try:
            return os.stat(os.path.join(self._mailboxes, address, name)).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None


class Session(Milter.Base):
    """One SMTP session of Postfix's; collects its messages one after the other.

    direction: that of all messages of this role, as metrics call it.
    """

    direction = ""

    def __init__(self, shared: SharedState):
        self.shared = shared
        self.content = bytearray()
        self._header_size = 0
        self._forget()

    def _let_go(self) -> None:
        """Free the body, also for whoever was handed it."""
        content, self.content = self.content, bytearray()
        self.shared.in_flight.give_back(len(content))
        with contextlib.suppress(BufferError):
            content.clear()

    def _forget(self) -> None:
        self.sender = ""
        self.recipients: list[str] = []
        self.fields: list[Field] = []
        self._let_go()
        self.no_room = False
        self.header_too_large = False
        self.shared.in_flight.give_back(self._header_size)
        self._header_size = 0

    def refuse(self, refusal: Refusal) -> int:
        """Set the SMTP reply. Returns what the callback has to return."""
        counters.count("chatmail_refused_total", self.direction, refusal.reason)
        log.info("refused: %s", refusal.reason)
        self.setreply(refusal.code, refusal.xcode, _format_for_libmilter(refusal.text))
        return Milter.TEMPFAIL if refusal.code.startswith("4") else Milter.REJECT

    @guarded
    @Milter.decode("bytes")
    def envfrom(self, sender: bytes, *_parameters: bytes) -> None:
        """MAIL FROM: a new message begins."""
        self._forget()
        self.sender = _address(sender)

    @guarded
    @Milter.decode("bytes")
    def envrcpt(self, recipient: bytes, *_parameters: bytes) -> None:
        """RCPT TO."""
        address = _address(recipient)
        self.check_recipient(address)
        self.recipients.append(address)

    @Milter.noreply
    @Milter.decode("bytes")
    def header(self, name: str, value: bytes) -> int:
        """One field; Postfix separates folded lines by LF and keeps their leading space."""
        size = len(name) + len(value)
        if len(self.fields) >= MAX_FIELDS or self._header_size + size > MAX_HEADER:
            self.header_too_large = True
        elif not self.shared.in_flight.take(size):
            self.no_room = True
        else:
            self._header_size += size
            self.fields.append((name.encode(), value.replace(b"\n", b"\r\n")))
        return Milter.CONTINUE

    @Milter.noreply
    def body(self, chunk: bytes) -> int:
        """Some bytes of the body, which Postfix bounds; its lines end in CR LF."""
        if self.no_room or not self.shared.in_flight.take(len(chunk)):
            self.no_room = True
            self._let_go()
        else:
            self.content += chunk
        return Milter.CONTINUE

    @guarded
    def eom(self) -> None:
        """The message is complete."""
        try:
            if self.no_room:
                text = "Too much mail at once, try again later"
                raise Refusal("too much at once", "451", "4.3.2", text)
            self.check_message()
        finally:
            self._forget()

    @guarded
    def abort(self) -> None:
        """The message does not come to its end."""
        self._forget()

    @guarded
    def close(self) -> None:
        """The session is over, however it ended."""
        self._forget()

    def check_recipient(self, address: str) -> None:
        """Raises Refusal."""

    def check_message(self) -> None:
        """Check the message and change it. Raises Refusal."""
        raise NotImplementedError

    def check_header_size(self) -> None:
        """Raises Refusal when not all of the header was kept."""
        if self.header_too_large:
            raise Refusal("header too large", "552", "5.3.4", "Message header too large")

    def sign(self, fields: list[Field]) -> None:
        """Put a signature of each key on top; `fields` are those that leave."""
        if self.shared.keys is None:
            return
        signatures = signing.signature_fields(
            fields, self.content, self.shared.mail_domain, self.shared.keys.current()
        )
        for signature in reversed(signatures):
            self.addheader("DKIM-Signature", _format_for_postfix(signature), 0)
        counters.count("dkim_signed")


@Milter.header_leading_space
class Submission(Session):
    """What users send (contract, section 4)."""

    direction = "outgoing"
    _sender_checked = False

    def _forget(self) -> None:
        super()._forget()
        self._sender_checked = False

    def check_recipient(self, address: str) -> None:
        """Check the sender once a message, at its first recipient. Raises Refusal."""
        if self._sender_checked:
            return
        sender = self.sender.lower()
        # A session may have begun before its address was blocked or deleted.
        if not self.shared.has_mailbox(sender):
            text = f"<{self.sender}> may not send: it is blocked or deleted"
            raise Refusal("blocked sender", "550", "5.7.1", text)
        if not self.shared.rate_limit.take(sender):
            text = f"4.7.1: Too much mail from <{self.sender}>"
            raise Refusal("too much mail", "450", None, text)
        self._sender_checked = True

    def check_message(self) -> None:
        """Check, clean and sign. Raises Refusal."""
        self.check_header_size()
        kind = rules.check_submission(self.sender, self.fields, self.content)
        fields, changes = rules.clean_fields(self.fields)
        for name, index, value in changes:
            self.chgheader(name.decode(), index, _format_for_postfix(value))
        self.sign(fields)
        counters.count("chatmail_passed_total", self.direction, kind)


@Milter.header_leading_space
class Incoming(Session):
    """What arrives on port 25 (section 5)."""

    direction = "incoming"
    # Whether the envelope's sender is the author, whom a signature vouches for.
    sender_verified = False

    def _forget(self) -> None:
        super()._forget()
        self.sender_verified = False

    def check_recipient(self, address: str) -> None:
        """Raises Refusal for what is no address here."""
        if not self.shared.has_mailbox(address.lower()):
            raise Refusal("no such address", "550", "5.1.1", f"<{address}>: no such address here")

    def check_message(self) -> None:
        """Check, verify the signature, take away a foreign envelope sender. Raises Refusal."""
        self.check_header_size()
        self._check_federation()
        author, kind = rules.check_incoming(
            self.sender, self.recipients, self.fields, self.content, self._takes_cleartext
        )
        domain = author.rpartition("@")[2].lower()
        if self.shared.keys is not None and not rules.is_address_literal(domain):
            # DNS may take 20 s, for as many messages as there are sessions: without their bodies.
            verifying.check_signatures(
                self.fields, self.content, domain, self.shared.lookup, self._let_go
            )
            counters.count("chatmail_dkim_verified_total")
            self.sender_verified = self.sender.lower() == author.lower()
        if self.sender and self.sender.lower() != author.lower():
            self.chgfrom("<>")
        counters.count("chatmail_passed_total", self.direction, kind)

    def _check_federation(self) -> None:
        """Refuse by the author's domain, before what the sender could do something about."""
        domain = rules.from_address(self.fields).rpartition("@")[2].lower()
        if self.shared.federation.refuses(domain):
            text = f"This relay takes no mail from {domain}"
            raise Refusal("federation", "554", "5.7.1", text)

    def _takes_cleartext(self) -> bool:
        return all(self.shared.takes_cleartext(address.lower()) for address in self.recipients)


@Milter.header_leading_space
class Mxdeliv(Incoming):
    """What arrives through /mxdeliv, where one answer stands for all recipients.

    A dead recipient must not keep the message from the others. Where the author is verified the
    dead one stays among the recipients: Dovecot refuses it, and Postfix tells the author by a
    signed bounce. Otherwise nobody is told, since the bounce might go to a stranger.
    """

    def check_recipient(self, address: str) -> None:
        """Take all; which of them there are is asked at the end."""

    def check_message(self) -> None:
        """Check as on port 25, if there is anybody here to get it. Raises Refusal."""
        dead = [r for r in self.recipients if not self.shared.has_mailbox(r.lower())]
        self.recipients = [r for r in self.recipients if r not in dead]
        if not self.recipients:
            super().check_recipient(dead[0])
        super().check_message()
        if dead and not self.sender_verified:
            for address in dead:
                self.delrcpt(f"<{address}>")


@Milter.header_leading_space
class Sign(Session):
    """What Postfix itself writes: bounces are signed and nothing else."""

    def check_message(self) -> None:
        """Sign."""
        if not self.header_too_large:
            self.sign(self.fields)


ROLES: dict[str, type[Session]] = {
    "submission": Submission,
    "incoming": Incoming,
    "mxdeliv": Mxdeliv,
    "sign": Sign,
}


def _format_for_libmilter(text: str) -> str:
    """Return a reply's text as libmilter takes it: printable, not too long, a printf format."""
    printable = "".join(c if " " <= c <= "~" else "?" for c in text)[:MAX_REPLY]
    escaped = printable.replace("%", "%%")
    if len(escaped) <= MAX_REPLY_ESCAPED:
        return escaped
    return printable[: MAX_REPLY_ESCAPED // 2].replace("%", "%%")


def _address(path: bytes) -> str:
    """Return the address of a path as Postfix hands it over, `<user@example.org>`."""
    return path.decode("utf-8", "replace").removeprefix("<").removesuffix(">")


def _format_for_postfix(value: bytes | None) -> str | None:
    """Return a field's value as Postfix takes it: LF between lines, None to remove the field."""
    return None if value is None else value.replace(b"\r\n", b"\n").decode()
