"""The messages of one run of ping: to each relay, by each way."""

import asyncio
import contextlib
import smtplib
import time

from chatmaild.common.errors import OperatorError
from chatmaild.common.federation import Federation
from chatmaild.common.http_client import tls_context
from chatmaild.dkim import signing
from chatmaild.health import connections, message, throwaway
from chatmaild.health.machine import list_queue
from chatmaild.health.mail import SUBMISSION
from chatmaild.health.running import Account, Failed, State, describe
from chatmaild.message.spool import Message
from chatmaild.transport.delivery import Delivery
from chatmaild.transport.destinations import Destinations, NoHost
from chatmaild.transport.https_client import HttpsClient, HttpsFailed
from chatmaild.transport.smtp_client import Uncertain, Unreachable

# The relays to which messages go straight at the same time.
AT_ONCE = 10
# Seconds between two looks at the queue.
PAUSE = 0.3
SPOOL = "/var/tmp"


def send(settings: dict, token: str, domains: list[str], wait: float) -> dict:
    """Send the messages from an address that exists only meanwhile.

    domains: the parts of the addresses after the @. wait: the longest time in seconds that mail may
        stay in the queue. After that it is removed and counts as lost.
    Returns {"mail": {"sent": Unix seconds, or "error": text}, "left": {domain: why its mail stayed
    in the queue}, "straight": {domain: {way: seconds until the other relay took it, or a text}}}.
    """
    state = State(settings, offline=False)
    try:
        sender = throwaway.make_one(state)
        mail = _submit(settings, sender, token, domains)
        straight = asyncio.run(_go_straight(settings, sender.address, token, domains))
        left = _await_delivery(sender.address, wait)
    except Failed as error:
        raise OperatorError(state.hide(str(error))) from None
    finally:
        with contextlib.suppress(Failed):
            throwaway.remove(state)
    found = {"mail": mail, "left": left, "straight": straight}
    return _hide(found, lambda text: state.hide(text).replace(f"{token}@", "<address>@"))


def _hide(value, hide):
    """Return a value without addresses in its texts."""
    if isinstance(value, dict):
        return {name: _hide(each, hide) for name, each in value.items()}
    return hide(value) if isinstance(value, str) else value


def make_message(settings: dict, sender: str, recipient: str, way: str, token: str) -> bytes:
    """Return a message whose Message-ID names the way. One that goes straight is signed here."""
    fields, body = message.encrypted(sender, recipient)
    domain = settings["address_domain"]
    mark = f" <{way}.{token}@{domain.strip('[]')}>".encode()
    fields = [(name, mark if name == b"Message-ID" else value) for name, value in fields]
    if way != "mail" and settings["dkim_required"]:
        keys = signing.load_keys()
        made = signing.signature_fields(fields, body, settings["mail_domain"], keys)
        fields = [*((b"DKIM-Signature", value) for value in made), *fields]
    return message.render(fields, body)


def _submit(settings: dict, sender: Account, token: str, domains: list[str]) -> dict:
    """Send one message to all relays as a user does. The filter of this relay signs it."""
    recipients = [f"{token}@{domain}" for domain in domains]
    text = make_message(settings, sender.address, recipients[0], "mail", token)
    began = time.time()
    try:
        with connections.smtp(SUBMISSION, settings["hostname"]) as client:
            client.login(*sender)
            client.sendmail(sender.address, recipients, text)
    except (OSError, smtplib.SMTPException) as error:
        return {"error": describe(error)}
    return {"sent": began}


def _await_delivery(sender: str, wait: float) -> dict[str, str]:
    """Wait until the queue has no mail of the sender; return {domain: why its mail is still there}.

    Postfix says why only after a try that failed.
    """
    deadline = time.monotonic() + wait
    while True:
        left = {
            each["address"].rpartition("@")[2]: each.get("delay_reason", "no try has ended yet")
            for queued in list_queue()
            if queued["sender"] == sender
            for each in queued["recipients"]
        }
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(PAUSE)


async def _go_straight(settings, sender, token, domains) -> dict[str, dict[str, float | str]]:
    """Hand a message to each relay by HTTPS and by SMTP, with the code of chatmail-transport."""
    verified, unverified = tls_context(True), tls_context(False)
    destinations = Destinations(
        (),
        use_ipv6=not settings["disable_ipv6"],
        # This relay asks itself, too.
        is_ours=lambda _address: False,
        private_networks=settings["federation"]["private_networks"],
    )
    https = HttpsClient(verified, unverified)
    name, federation = settings["hostname"], Federation(settings)
    delivery = Delivery(destinations, https, name, verified, unverified, federation)
    slots = asyncio.Semaphore(AT_ONCE)

    async def by_https(host, recipient, spool):
        await https.post(host, sender, [recipient], spool)

    async def by_smtp(host, recipient, spool):
        [answer] = (await delivery.by_smtp(host, sender, [recipient], spool)).values()
        if not answer.delivered:
            raise Unreachable(f"{answer.code} {answer.text}", "answer")

    async def to(domain):
        recipient, found = f"{token}@{domain}", {}
        async with slots:
            for way, deliver in (("https", by_https), ("smtp", by_smtp)):
                text = make_message(settings, sender, recipient, way, token)
                found[way] = await _time(destinations, domain, recipient, text, deliver)
        return found

    try:
        found = await asyncio.gather(*map(to, domains))
    finally:
        await https.close()
    return dict(zip(domains, found, strict=True))


async def _time(destinations, domain, recipient, text, deliver) -> float | str:
    """Deliver to the best host of a domain; return the seconds, or why it did not work."""
    try:
        async with contextlib.aclosing(destinations.hosts(domain)) as hosts:
            host = await anext(hosts)
        with Message(SPOOL) as spool:
            spool.write(text)
            began = time.monotonic()
            await deliver(host, recipient, spool)
            return round(time.monotonic() - began, 3)
    except (HttpsFailed, Unreachable, Uncertain, NoHost) as error:
        return str(error)
