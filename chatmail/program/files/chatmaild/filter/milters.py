"""The four milters. They collect messages from Postfix, check them, and change them."""

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable

from chatmaild.common.addresses import is_address
from chatmaild.common.federation import Federation
from chatmaild.common.rate_limit import RateLimit
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import signing, verifying
from chatmaild.filter import milter_server, rules
from chatmaild.filter.milter_server import CONTINUE, TEMPFAIL
from chatmaild.message.mime import Field
from chatmaild.metrics import counters

log = logging.getLogger(__name__)

# Mail programs write far less (the key in an Autocrypt field has 10 KB). Much more would cost time.
MAX_FIELDS = 1000
MAX_HEADER = 512 * 1024
# Characters of the text of a reply, whose line may have 512 (RFC 5321 section 4.5.3.1.5).
MAX_REPLY = 500
# Bytes of all messages that one process holds at once. While messages are checked, their copies
# need two or three times as much again (services/files/chatmail-filter.service.jinja). One message
# of the largest size always has room.
MAX_IN_FLIGHT = 96 * 1024 * 1024
# Bytes of a body from which on its checks take more than a few milliseconds.
LARGE = 256 * 1024


def guarded(callback: Callable[..., None]) -> Callable[..., bytes]:
    """Turn a Refusal into its SMTP reply, and any other exception into "try again later".

    A fault of the filter never lets a message pass. The text of an exception may quote the message,
    so the log gets only the name of the exception and its place in the code.
    """

    @functools.wraps(callback)
    def guard(self, *arguments) -> bytes:
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
            return TEMPFAIL
        return CONTINUE

    return guard


class InFlight:
    """A counter of the bytes that all sessions hold, with a limit."""

    def __init__(self, most: int):
        self._most = most
        self._held = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Add a number of bytes; return False, and add nothing, when the limit would be passed."""
        with self._lock:
            if self._held + size > self._most:
                return False
            self._held += size
            return True

    def give_back(self, size: int) -> None:
        """Subtract a number of bytes."""
        with self._lock:
            self._held -= size


class SharedState:
    """The state that all sessions of a role share.

    settings: the content of `/etc/chatmail/relay.json`.
    keys: the keys that sign, or None on a relay that neither signs nor verifies.
    lookup: a function that finds TXT records in DNS, or None on such a relay.
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
        """Return whether an address exists and is not blocked.

        An empty password file means blocked. Raises OSError when the file cannot be examined.
        """
        return is_address(address, self._address_domain) and bool(
            self._find_size(address, "password")
        )

    def takes_cleartext(self, address: str) -> bool:
        """Return whether an address exists and accepts unencrypted mail."""
        return self.has_mailbox(address) and self._find_size(address, "enforceE2EEincoming") is None

    def _find_size(self, address: str, name: str) -> int | None:
        """Return the size in bytes of a file of an address, None when it does not exist."""
        try:
            return os.stat(os.path.join(self._mailboxes, address, name)).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None


class Session(milter_server.Session):
    """One SMTP session of Postfix. It collects the session's messages one after the other.

    direction: the direction of this role's messages, as the metrics name it.
    """

    direction = ""

    def __init__(self, shared: SharedState):
        super().__init__()
        self.shared = shared
        self.content = bytearray()
        self._header_size = 0
        self._forget()

    def _free_body(self) -> None:
        """Free the body, also for the code that was given a reference to it."""
        content, self.content = self.content, bytearray()
        self.shared.in_flight.give_back(len(content))
        with contextlib.suppress(BufferError):
            content.clear()

    def _forget(self) -> None:
        self.sender = ""
        self.recipients: list[str] = []
        self.fields: list[Field] = []
        self._free_body()
        self.no_room = False
        self.header_too_large = False
        self.shared.in_flight.give_back(self._header_size)
        self._header_size = 0

    def refuse(self, refusal: Refusal) -> bytes:
        """Return the answer that makes Postfix send the reply of a refusal."""
        counters.count("chatmail_refused_total", self.direction, refusal.reason)
        log.info("refused: %s", refusal.reason)
        printable = "".join(c if " " <= c <= "~" else "?" for c in refusal.text)
        return milter_server.reply(refusal.code, refusal.xcode, printable[:MAX_REPLY])

    @guarded
    def envfrom(self, sender: bytes) -> None:
        """Note the sender of a new message (MAIL FROM)."""
        self._forget()
        self.sender = _parse_path(sender)

    @guarded
    def envrcpt(self, recipient: bytes) -> None:
        """Check and note a recipient (RCPT TO)."""
        address = _parse_path(recipient)
        self.check_recipient(address)
        self.recipients.append(address)

    def header(self, name: bytes, value: bytes) -> None:
        """Collect a field. Postfix separates folded lines by LF and keeps their leading space."""
        size = len(name) + len(value)
        if len(self.fields) >= MAX_FIELDS or self._header_size + size > MAX_HEADER:
            self.header_too_large = True
        elif not self.shared.in_flight.take(size):
            self.no_room = True
        else:
            self._header_size += size
            self.fields.append((name, value.replace(b"\n", b"\r\n")))

    def body(self, chunk: bytes) -> None:
        """Collect some bytes of the body, whose lines end in CR LF. Postfix limits its size."""
        if self.no_room or not self.shared.in_flight.take(len(chunk)):
            self.no_room = True
            self._free_body()
        else:
            self.content += chunk

    @guarded
    def eom(self) -> None:
        """Check and change the complete message."""
        try:
            if self.no_room:
                text = "Too much mail at once, try again later"
                raise Refusal("too much at once", "451", "4.3.2", text)
            self.check_message()
        finally:
            self._forget()

    def takes_long(self) -> bool:
        """Return whether the checks of the message may keep other sessions waiting."""
        return len(self.content) > LARGE

    @guarded
    def abort(self) -> None:
        """Forget a message that the client or Postfix has given up."""
        self._forget()

    @guarded
    def close(self) -> None:
        """Forget the rest of a session that has ended in any way."""
        self._forget()

    def check_recipient(self, address: str) -> None:
        """Raise Refusal when the role does not accept this recipient."""

    def check_message(self) -> None:
        """Check the message and change it. Raises Refusal."""
        raise NotImplementedError

    def check_header_size(self) -> None:
        """Raise Refusal when the header was too large to be kept."""
        if self.header_too_large:
            raise Refusal("header too large", "552", "5.3.4", "Message header too large")

    def sign(self, fields: list[Field]) -> None:
        """Add a signature of each key above all fields.

        fields: the fields of the message as it leaves the relay.
        """
        if self.shared.keys is None:
            return
        signatures = signing.signature_fields(
            fields, self.content, self.shared.mail_domain, self.shared.keys.current()
        )
        for signature in reversed(signatures):
            self.insert_field(0, b"DKIM-Signature", _format_for_postfix(signature))
        counters.count("dkim_signed")


class Submission(Session):
    """The role for messages that users send (contract, section 4)."""

    direction = "outgoing"

    def _forget(self) -> None:
        super()._forget()
        self._sender_checked = False

    def check_recipient(self, address: str) -> None:
        """Check the sender at the first recipient of each message. Raises Refusal."""
        if self._sender_checked:
            return
        sender = self.sender.lower()
        # The address may have been blocked or deleted after the session began.
        if not self.shared.has_mailbox(sender):
            text = f"<{self.sender}> may not send: it is blocked or deleted"
            raise Refusal("blocked sender", "550", "5.7.1", text)
        if not self.shared.rate_limit.take(sender):
            text = f"4.7.1: Too much mail from <{self.sender}>"
            raise Refusal("too much mail", "450", None, text)
        self._sender_checked = True

    def check_message(self) -> None:
        """Check the message, change its fields, and sign it. Raises Refusal."""
        self.check_header_size()
        kind = rules.check_submission(self.sender, self.fields, self.content)
        fields, changes = rules.clean_fields(self.fields)
        for name, index, value in changes:
            self.change_field(index, name, _format_for_postfix(value or b""))
        self.sign(fields)
        counters.count("chatmail_passed_total", self.direction, kind)


class Incoming(Session):
    """The role for messages that arrive on port 25 (contract, section 5)."""

    direction = "incoming"

    def _forget(self) -> None:
        super()._forget()
        # Whether the envelope sender is the author, and a valid signature proves the author's
        # domain.
        self.sender_verified = False

    def takes_long(self) -> bool:
        """Return whether DNS may be asked, or the message is large."""
        return self.shared.keys is not None or super().takes_long()

    def check_recipient(self, address: str) -> None:
        """Raise Refusal when the address does not exist here."""
        if not self.shared.has_mailbox(address.lower()):
            raise Refusal("no such address", "550", "5.1.1", f"<{address}>: no such address here")

    def check_message(self) -> None:
        """Check the message, verify its signature, and remove a foreign envelope sender.

        Raises Refusal.
        """
        self.check_header_size()
        self._check_federation()
        author, kind = rules.check_incoming(
            self.sender, self.recipients, self.fields, self.content, self._takes_cleartext
        )
        domain = author.rpartition("@")[2].lower()
        if self.shared.keys is not None and not rules.is_address_literal(domain):
            # DNS may take 20 s, and many sessions may wait for it at once. So the body is freed
            # before that.
            verifying.check_signatures(
                self.fields, self.content, domain, self.shared.lookup, self._free_body
            )
            counters.count("chatmail_dkim_verified_total")
            self.sender_verified = self.sender.lower() == author.lower()
        if self.sender and self.sender.lower() != author.lower():
            self.change_sender(b"<>")
        counters.count("chatmail_passed_total", self.direction, kind)

    def _check_federation(self) -> None:
        """Refuse a domain that the federation lists exclude.

        This check comes first: the sender can do nothing about it, so the reply should not ask for
        anything else, such as encryption.
        """
        domain = rules.from_address(self.fields).rpartition("@")[2].lower()
        if self.shared.federation.refuses(domain):
            text = f"This relay takes no mail from {domain}"
            raise Refusal("federation", "554", "5.7.1", text)

    def _takes_cleartext(self) -> bool:
        return all(self.shared.takes_cleartext(address.lower()) for address in self.recipients)


class Mxdeliv(Incoming):
    """The role for messages through /mxdeliv, where one answer is for all recipients.

    A recipient that does not exist must not keep the message from the others. When the author is
    verified, that recipient stays: Dovecot refuses it, and Postfix sends the author a signed
    bounce. Otherwise that recipient is removed without a bounce, which could go to a stranger.
    """

    def check_recipient(self, address: str) -> None:
        """Accept every recipient. `check_message` finds those that do not exist."""

    def check_message(self) -> None:
        """Check the message as on port 25, when a recipient exists. Raises Refusal."""
        dead = [r for r in self.recipients if not self.shared.has_mailbox(r.lower())]
        self.recipients = [r for r in self.recipients if r not in dead]
        if not self.recipients:
            super().check_recipient(dead[0])
        super().check_message()
        if dead and not self.sender_verified:
            for address in dead:
                self.remove_recipient(f"<{address}>".encode())


class Sign(Session):
    """The role for messages that Postfix itself writes, such as bounces. They are only signed."""

    def check_message(self) -> None:
        """Sign the message."""
        if not self.header_too_large:
            self.sign(self.fields)


ROLES: dict[str, type[Session]] = {
    "submission": Submission,
    "incoming": Incoming,
    "mxdeliv": Mxdeliv,
    "sign": Sign,
}


def _parse_path(path: bytes) -> str:
    """Return the address in a path such as `<user@example.org>`, which Postfix sends."""
    return path.decode("utf-8", "replace").removeprefix("<").removesuffix(">")


def _format_for_postfix(value: bytes) -> bytes:
    """Return a field's value in Postfix's form: LF between lines."""
    return value.replace(b"\r\n", b"\n")
