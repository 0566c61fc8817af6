"""The delivery of one message to one destination domain, by HTTPS or SMTP (contract, section 7).

A message that is not delivered within its LMTP transaction stays in Postfix's queue. Between
deliveries the service remembers only which way worked for a host, and which addresses are down.
"""

import asyncio
import collections
import contextlib
import ipaddress
import logging
import ssl
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from chatmaild.common.federation import Federation
from chatmaild.message.spool import Message
from chatmaild.metrics import counters
from chatmaild.transport.destinations import Destinations, Host, NoHost, Tls
from chatmaild.transport.https_client import HttpsClient, HttpsFailed
from chatmaild.transport.smtp_client import SmtpSession, Uncertain, Unreachable, connect
from chatmaild.transport.smtp_protocol import Answer

# After START_SECONDS no further host is tried. One try by SMTP takes at most SMTP_SECONDS. So the
# answer comes within START + DNS + HTTPS + SMTP = 60 + 15 + 180 + 180 = 435 s in the worst case,
# below Postfix's lmtp_data_done_timeout of 600 s. A host with one address that never answers takes
# 20 s.
START_SECONDS = 60
SMTP_SECONDS = 180
# The part of SMTP_SECONDS until the server is ready for the message. Some servers delay their
# greeting by 30 s.
SETUP_SECONDS = 60
# After HTTPS failed and SMTP worked, SMTP comes first for this host for this time.
SMTP_FIRST_SECONDS = 30 * 60
# Deliveries to one address at once. A burst of ours must not take all processes of that host, and a
# host with many names must not take all of our deliveries.
PER_HOST = 40
# Deliveries at once to an address that accepted nothing lately. The host is down, or it wants to
# waste our time.
PER_DEAD_HOST = 2
# Messages of one sender at once. Postfix has 500 processes for the messages of all senders. A
# message takes about a second, and a sender sends one in a second (max_user_send_per_minute), so
# only slow hosts make this number grow. A message may go to as many domains as it has recipients
# (1000). Each delivery needs a socket, and the service may have 16384.
MESSAGES_PER_SENDER = 50
DELIVERIES_PER_SENDER = 1500
# A host that took longer than this, and then did not accept the message, counts as down.
SLOW_SECONDS = 45
# The number of hosts, and of addresses, that are remembered.
MAX_HOSTS_KNOWN = 10000

Answers = dict[str, Answer]
log = logging.getLogger(__name__)


@dataclass
class _Known:
    """What the service remembers about a host, by its name."""

    smtp_first_until: float = 0
    users: int = 0


@dataclass
class _Place:
    """What the service remembers about an address, which several names may have."""

    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PER_HOST))
    users: int = 0
    # At the last delivery, neither HTTPS nor SMTP worked.
    dead: bool = False


def find_place(host: Host) -> str:
    """Return the network of a host's first address: one IPv4 address, or an IPv6 /64.

    One machine may have all addresses of a /64.
    """
    address = ipaddress.ip_address(host.addresses[0])
    return str(ipaddress.ip_network((address, 64 if address.version == 6 else 32), strict=False))


class Delivery:
    """Delivers messages.

    ehlo_name: this relay's name in SMTP.
    verified, unverified: TLS contexts for SMTP.
    federation: the lists of domains.
    smtp_port, clock: tests replace them.
    """

    def __init__(
        self,
        destinations: Destinations,
        https: HttpsClient,
        ehlo_name: str,
        verified: ssl.SSLContext,
        unverified: ssl.SSLContext,
        federation: Federation,
        smtp_port: int = 25,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._destinations = destinations
        self._https = https
        self._ehlo_name = ehlo_name
        self._contexts = {
            Tls.VERIFIED: verified,
            Tls.UNVERIFIED: unverified,
            Tls.OPTIONAL: unverified,
        }
        self._federation = federation
        self._smtp_port = smtp_port
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._places: dict[str, _Place] = {}
        self._of_sender: collections.Counter[str] = collections.Counter()

    async def to_domain(
        self, domain: str, sender: str, recipients: list[str], message: Message
    ) -> Answers:
        """Deliver one copy for all recipients of a domain; return the answer for each recipient.

        domain: the domain in lower case. sender: the envelope sender, empty for a bounce.
        """
        if self._federation.refuses(domain):
            # Postfix could refuse this at RCPT TO, but then Delta Chat gives up the message for a
            # whole group. Here the other recipients get the message. The lists also apply to
            # messages that were queued before the lists changed.
            refusal = Answer(550, f"5.7.1 This relay sends no mail to {domain}")
            return dict.fromkeys(recipients, refusal)
        answers: Answers = {}
        deadline = self._clock() + START_SECONDS
        try:
            async with contextlib.aclosing(self._destinations.hosts(domain)) as hosts:
                async for host in hosts:
                    waiting = [r for r in recipients if r not in answers or answers[r].temporary]
                    answers |= await self._to_host(host, sender, waiting, message, deadline)
                    if not any(answers[r].temporary for r in recipients):
                        break
                    if self._clock() > deadline:
                        break
            return answers
        except NoHost as error:
            counters.count("chatmail_delivery_no_host_total")
            otherwise = error.answer
        except Uncertain as error:
            # The message may have arrived. Trying the next host now would more likely deliver it
            # twice than trying again later.
            otherwise = Answer(451, f"4.4.2 {domain}: {error}")
        except Exception as error:
            # The text of the error may quote the message, so only its kind and place are logged.
            place = traceback.extract_tb(error.__traceback__)[-1]
            log.error("delivery broke: %s at %s", type(error).__name__, place)
            otherwise = Answer(451, "4.3.0 internal error, see the log")
        # The answers so far stay: a recipient with the answer 250 must not get the message again.
        return {r: answers.get(r, otherwise) for r in recipients}

    async def _to_host(self, host, sender, recipients, message, deadline) -> Answers:
        """Try one host. At most PER_HOST deliveries use its address at the same time."""
        with self._use(self._places, find_place(host), _Place) as place:
            if place.dead and place.users > PER_DEAD_HOST:
                return _defer(host, recipients, "is down, and enough deliveries try it")
            try:
                async with asyncio.timeout(max(0, deadline - self._clock())):
                    await place.slots.acquire()
            except TimeoutError:
                return _defer(host, recipients, "is busy with other deliveries of ours")
            try:
                if place.dead and place.users > PER_DEAD_HOST:
                    return _defer(host, recipients, "is down, and enough deliveries try it")
                with self._use(self._known, host.name, _Known) as known:
                    return await self._both_ways(known, place, host, sender, recipients, message)
            finally:
                place.slots.release()

    @contextlib.contextmanager
    def _use(self, known_ones: dict, name: str, kind: type):
        """Yield what is remembered about a host or an address. It is not forgotten while in use."""
        if len(known_ones) >= MAX_HOSTS_KNOWN:
            now = self._clock()
            for idle in [n for n, k in known_ones.items() if not k.users]:
                if getattr(known_ones[idle], "smtp_first_until", 0) < now:
                    del known_ones[idle]
        known = known_ones.setdefault(name, kind())
        known.users += 1
        try:
            yield known
        finally:
            known.users -= 1

    async def _both_ways(self, known, place, host, sender, recipients, message) -> Answers:
        """Try HTTPS and then SMTP, or SMTP first for a host where only SMTP worked lately."""
        failures: list[str] = []
        reached = False
        slow_at = self._clock() + SLOW_SECONDS
        smtp_first = known.smtp_first_until > self._clock()
        for way in ("SMTP", "HTTPS") if smtp_first else ("HTTPS", "SMTP"):
            try:
                if way == "HTTPS":
                    await self._https.post(host, sender, recipients, message)
                    answer = Answer(250, f"2.0.0 {host.name} took it by HTTPS")
                    answers = dict.fromkeys(recipients, answer)
                else:
                    answers = await self.by_smtp(host, sender, recipients, message)
            except HttpsFailed as error:
                reached = reached or error.kind == "answer"
                failures.append(f"HTTPS: {error}")
                counters.count("chatmail_delivery_failures_total", "https", error.kind)
            except Unreachable as error:
                known.smtp_first_until = 0
                failures.append(f"SMTP: {error}")
                counters.count("chatmail_delivery_failures_total", "smtp", error.kind)
            except Uncertain:
                counters.count("chatmail_delivery_failures_total", "smtp", "uncertain")
                # This host made us wait until the end. It may do so again, so it gets few
                # deliveries at once.
                place.dead = True
                raise
            else:
                delivered = any(answer.delivered for answer in answers.values())
                place.dead = not delivered and self._clock() > slow_at
                if delivered:
                    counters.count("chatmail_deliveries_total", way.lower())
                else:
                    counters.count("chatmail_delivery_failures_total", "smtp", "answer")
                # When SMTP came first, the time is not extended, so that HTTPS is tried again.
                if failures and way == "SMTP" and delivered:
                    known.smtp_first_until = self._clock() + SMTP_FIRST_SECONDS
                return answers
        place.dead = not reached or self._clock() > slow_at
        return _defer(host, recipients, "; ".join(failures))

    async def by_smtp(
        self, host: Host, sender: str, recipients: list[str], message: Message
    ) -> Answers:
        """Deliver to one host by SMTP, with the TLS that the destination domain requires.

        Returns the Answer for each recipient. Raises Unreachable and Uncertain.
        """
        sent = False

        async def deliver(with_tls: bool) -> Answers:
            nonlocal sent
            connection = await connect(host.addresses, self._smtp_port)
            try:
                session = SmtpSession(connection, self._ehlo_name, host.name)
                try:
                    async with asyncio.timeout(SETUP_SECONDS):
                        await session.greet()
                        if with_tls:
                            await session.start_tls(self._contexts[host.tls], host.name)
                except TimeoutError:
                    text = f"not ready within {SETUP_SECONDS} s"
                    raise Unreachable(text, "timeout") from None
                sent = True
                answers = await session.deliver(sender, recipients, message)
                await session.quit()
                return answers
            finally:
                connection.close()

        try:
            async with asyncio.timeout(SMTP_SECONDS):
                try:
                    return await deliver(with_tls=True)
                except Unreachable:
                    if host.tls is not Tls.OPTIONAL or sent:
                        raise
                    return await deliver(with_tls=False)
        except TimeoutError:
            raise Uncertain(f"SMTP took more than {SMTP_SECONDS} s") from None


def _defer(host: Host, recipients: list[str], why: str) -> Answers:
    """Return answers that make Postfix try again later."""
    return dict.fromkeys(recipients, Answer(451, f"4.4.1 {host.name}: {why}"))


class Transactions:
    """Groups a message's recipients by destination domain, and delivers to all domains at once."""

    def __init__(self, to_domain: Callable[..., Awaitable[Answers]]):
        self._to_domain = to_domain
        # For each sender a list: the number of deliveries of each message that is under way.
        self._under_way: dict[str, list[int]] = {}

    def start(
        self, sender: str, recipients: list[str], message: Message
    ) -> dict[str, asyncio.Task[Answers]]:
        """Begin the deliveries. Return {recipient: task}; the task's result has its answer."""
        domains: dict[str, list[str]] = {}
        for recipient in dict.fromkeys(recipients):
            domain = recipient.rpartition("@")[2].rstrip(".").lower()
            domains.setdefault(domain, []).append(recipient)
        deliver = self._to_domain
        under_way = self._under_way.setdefault(sender, [])
        if sender and (
            len(under_way) >= MESSAGES_PER_SENDER
            or sum(under_way) + len(domains) > DELIVERIES_PER_SENDER
        ):
            deliver = _refuse_too_many
        tasks: dict[str, asyncio.Task[Answers]] = {}
        for domain, of_domain in domains.items():
            task = asyncio.create_task(deliver(domain, sender, of_domain, message))
            tasks |= dict.fromkeys(of_domain, task)
        self._count(sender, set(tasks.values()))
        return tasks

    def _count(self, sender: str, tasks: set[asyncio.Task]) -> None:
        """Count a message until its last delivery has ended."""
        left = set(tasks)
        under_way = self._under_way[sender]
        under_way.append(len(tasks))

        def note_end(task: asyncio.Task) -> None:
            left.discard(task)
            if not left:
                under_way.remove(len(tasks))
                if not under_way:
                    del self._under_way[sender]

        for task in tasks:
            task.add_done_callback(note_end)


async def _refuse_too_many(_domain, _sender, recipients: list[str], _message) -> Answers:
    """Return the answers for a sender who has too many deliveries under way."""
    text = "4.3.2 too many messages of this sender wait for slow hosts"
    return dict.fromkeys(recipients, Answer(451, text))
