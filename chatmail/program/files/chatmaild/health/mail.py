"""The steps about mail: logins on each port, messages on each way in, and what must be refused."""

import imaplib
import secrets
import time
from collections.abc import Callable

from chatmaild.dkim import signing
from chatmaild.health import connections, message
from chatmaild.health.running import Failed, NotAsked, State, reply_of

SUBMISSION = 465
TOO_MUCH_MAIL = 450


def log_in(protocol: str, port: int, state: State) -> str:
    """An address logs in on a port."""
    account, _ = state.accounts()
    if protocol == "imap":
        with connections.imap(port) as client:
            client.login(*account)
            client.select()
    else:
        with connections.smtp(port, state.settings["hostname"]) as client:
            client.login(*account)
    return "logged in"


def send_by_submission(state: State) -> str:
    """A message from one address to the other arrives, and its client in IDLE hears of it."""
    sender, recipient = state.accounts()
    text = message.render(*message.encrypted(sender.address, recipient.address))
    return _deliver(state, lambda: _submit(state, sender, recipient.address, text))


def send_by_gateway(state: State) -> str:
    """A message as other relays hand it over by HTTPS arrives."""
    return _deliver(state, lambda: _post(state, _make_incoming(state)))


def send_by_smtp(state: State) -> str:
    """A message as other relays hand it over by SMTP arrives."""
    return _deliver(state, lambda: _hand_over(state, _make_incoming(state)))


def refuses_cleartext(state: State) -> str:
    """A message without encryption is refused to its sender."""
    recipient, sender = state.accounts()
    text = message.render(*message.cleartext(sender.address, recipient.address))
    return _expect(523, lambda: _submit(state, sender, recipient.address, text))


def refuses_forged_from(state: State) -> str:
    """A message whose From is somebody else's address is refused."""
    sender, other = state.accounts()
    text = message.render(*message.encrypted(sender.address, other.address, other.address))
    return _expect(500, lambda: _submit(state, sender, other.address, text))


def refuses_incoming_cleartext(state: State) -> str:
    """A message without encryption is refused to another server."""
    sender, recipient = state.accounts()
    text = message.render(*message.cleartext(sender.address, recipient.address))
    return _expect(523, lambda: _hand_over(state, text))


def refuses_wrong_password(state: State) -> str:
    """A login with a wrong password is refused."""
    account, _ = state.accounts()
    with connections.imap(993) as client:
        try:
            client.login(account.address, secrets.token_hex(16))
        except imaplib.IMAP4.error as error:
            # RFC 5530 section 3. A fault of the relay has another code, or breaks the connection.
            if "AUTHENTICATIONFAILED" in str(error):
                return "refused"
            raise
    raise Failed("a login with a wrong password succeeded; expected: a refusal")


def _make_incoming(state: State) -> bytes:
    """Return a message as another relay would hand it over, signed with the keys that sign now."""
    sender, recipient = state.accounts()
    fields, body = message.encrypted(sender.address, recipient.address)
    if state.settings["dkim_required"]:
        # The filter asks DNS for the key.
        state.needs_dns()
        domain, keys = state.settings["mail_domain"], signing.load_keys()
        signatures = signing.signature_fields(fields, body, domain, keys)
        fields = [*((b"DKIM-Signature", value) for value in signatures), *fields]
    return message.render(fields, body)


def _deliver(state: State, hand_over: Callable[[], None]) -> str:
    """Hand a message over; return how long its recipient waited for the notice in IDLE."""
    _, recipient = state.accounts()
    with connections.imap(993) as inbox:
        inbox.login(*recipient)
        inbox.select()
        with connections.idling(inbox):
            began = time.monotonic()
            hand_over()
            try:
                connections.await_notice(inbox)
            except TimeoutError:
                raise Failed(
                    f"the relay took the message, and no client heard of it within "
                    f"{connections.PATIENCE} s; expected: a notice at once"
                ) from None
    return f"the notice came after {time.monotonic() - began:.2f} s"


def _submit(state, sender, recipient, text):
    with connections.smtp(SUBMISSION, state.settings["hostname"]) as client:
        client.login(*sender)
        client.sendmail(sender.address, [recipient], text)


def _hand_over(state, text):
    sender, recipient = state.accounts()
    with connections.smtp(25, state.settings["hostname"]) as client:
        client.sendmail(sender.address, [recipient.address], text)


def _post(state, text):
    sender, recipient = state.accounts()
    headers = {
        "X-Mail-From": sender.address,
        "X-Mail-To": recipient.address,
        "Content-Type": "message/rfc822",
    }
    domain = state.settings["mail_domain"]
    status, answer = connections.ask_web(domain, "/mxdeliv", "POST", text, headers.items())
    if status != 200:
        said = answer[:200].decode("ascii", "replace")
        raise Failed(f"/mxdeliv answered {status} {' '.join(said.split())}; expected: 200")


def _expect(code: int, action: Callable[[], None]) -> str:
    """Return the refusal if it has the right code. Raises Failed."""
    try:
        action()
    except Exception as error:
        found, _text = reply_of(error)
        if found == code:
            return f"refused with {code}"
        if found == TOO_MUCH_MAIL:
            raise NotAsked("max_user_send_burst_size lets the address send no more now") from None
        raise
    raise Failed(f"the relay took the message; expected: a refusal with {code}")
