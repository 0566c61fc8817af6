"""Which way, which host and how many at once, on a clock of the test's and without a network."""

import asyncio
import logging

import pytest
from chatmaild.common.federation import Federation
from chatmaild.transport import delivery, destinations
from chatmaild.transport.destinations import Tls
from chatmaild.transport.https_client import HttpsFailed
from chatmaild.transport.smtp_client import Uncertain, Unreachable
from chatmaild.transport.smtp_protocol import Answer

TAKEN, LATER, REFUSED = Answer(250, "2.0.0 ok"), Answer(451, "4.7.1 no"), Answer(550, "5.7.1 no")
DOWN = HttpsFailed("it is down", "connection")
BUSY_503 = HttpsFailed("503", "answer")
NO_SMTP = Unreachable("it is down", "connection")
HOST = destinations.Host("mx.example", ("192.0.2.1",), Tls.VERIFIED)


class World:
    """Hosts that behave as the test says, and a Delivery to them that begins at second 0.

    https, smtp: what the two ways do: an error, or an Answer for all recipients.
    lasts: the seconds that a try by SMTP takes. asked: which way was tried with which host.
    """

    def __init__(self, monkeypatch, https=None, smtp=NO_SMTP, hosts=(HOST,)):
        self.https, self.smtp, self.all_hosts = https, smtp, hosts
        self.now, self.lasts, self.asked, self.tls = 0.0, 0, [], []
        self.running, self.gate = 0, None
        monkeypatch.setattr(delivery, "connect", self.connect)
        monkeypatch.setattr(delivery, "SmtpSession", self.session)
        lists = Federation({"address_domain": "x", "federation": {"block": [], "allow": []}})
        contexts = "verified", "unverified"
        self.made = delivery.Delivery(
            self, self, "ours.example", *contexts, lists, clock=lambda: self.now
        )

    async def hosts(self, domain):
        for host in self.all_hosts:
            yield host

    async def post(self, host, sender, recipients, message):
        self.asked.append(("HTTPS", host.name, recipients))
        self.running += 1
        if self.gate:
            await self.gate.wait()
        if self.https:
            raise self.https

    async def connect(self, addresses, port):
        return self

    def close(self):
        pass

    def session(self, connection, ehlo_name, host):
        return Smtp(self, host)

    async def deliver(self, count=1, recipients=("x@b",)):
        """Deliver so many messages at once; return the first answer of each."""
        sends = (self.made.to_domain("b", "a@x", list(recipients), None) for _ in range(count))
        return [answers[recipients[0]].line() for answers in await asyncio.gather(*sends)]

    def ways(self):
        asked, self.asked = [way for way, *_ in self.asked], []
        return asked


class Smtp:
    def __init__(self, world, host):
        self.world, self.host = world, host

    async def greet(self):
        pass

    async def start_tls(self, context, host):
        self.world.tls.append(context)
        if self.world.smtp == "no TLS":
            raise Unreachable("no STARTTLS offered", "tls")

    async def deliver(self, sender, recipients, message):
        self.world.asked.append(("SMTP", self.host, recipients))
        self.world.now += self.world.lasts
        result = self.world.smtp
        result = result.get(self.host, TAKEN) if isinstance(result, dict) else result
        if isinstance(result, Exception):
            raise result
        return dict.fromkeys(recipients, TAKEN if result == "no TLS" else result)

    async def quit(self):
        pass


def run(scenario):
    async def limited():
        async with asyncio.timeout(20):
            return await scenario

    return asyncio.run(limited())


@pytest.mark.parametrize(("seconds", "ways"), [(1799, ["SMTP"]), (1800, ["HTTPS", "SMTP"])])
def test_smtp_comes_first_for_30_minutes_after_it_worked_instead_of_https(
    monkeypatch, seconds, ways
):
    async def scenario():
        world = World(monkeypatch, BUSY_503, TAKEN)
        await world.deliver()
        assert world.ways() == ["HTTPS", "SMTP"]
        world.now = 900
        await world.deliver()
        assert world.ways() == ["SMTP"]
        world.now = seconds
        await world.deliver()
        return world.ways()

    assert run(scenario()) == ways


@pytest.mark.parametrize("answer", [LATER, REFUSED, NO_SMTP])
def test_https_stays_first_for_a_host_that_took_nothing_by_smtp(monkeypatch, answer):
    async def scenario():
        world = World(monkeypatch, BUSY_503, answer)
        await world.deliver()
        await world.deliver()
        return world.ways()

    assert run(scenario()) == ["HTTPS", "SMTP"] * 2


@pytest.mark.parametrize(
    ("https", "smtp", "seconds", "dead"),
    [
        (None, NO_SMTP, 0, False),
        (DOWN, NO_SMTP, 0, True),
        (BUSY_503, NO_SMTP, 0, False),
        (BUSY_503, NO_SMTP, 45, False),
        (BUSY_503, NO_SMTP, 46, True),
        (DOWN, TAKEN, 46, False),
        (DOWN, LATER, 45, False),
        (DOWN, LATER, 46, True),
        (DOWN, REFUSED, 46, True),
        (DOWN, Uncertain("no reply"), 0, True),
    ],
)
def test_host_that_is_down_or_wastes_time_gets_two_deliveries_at_once(
    monkeypatch, https, smtp, seconds, dead
):
    async def scenario():
        world = World(monkeypatch, https, smtp)
        world.lasts = seconds
        await world.deliver()
        world.gate, world.running, world.now = asyncio.Event(), 0, 4000
        sends = asyncio.create_task(world.deliver(5))
        while world.running < (2 if dead else 5):
            await asyncio.sleep(0)
        world.gate.set()
        return world.running, [reply for reply in await sends if "is down, and" in reply]

    running, refused = run(scenario())
    told = "451 4.4.1 mx.example: is down, and enough deliveries try it"
    assert (running, refused) == ((2, [told] * 3) if dead else (5, []))


def test_host_that_took_a_message_again_is_down_no_more(monkeypatch):
    async def scenario():
        world = World(monkeypatch, DOWN)
        await world.deliver()
        world.https = None
        await world.deliver()
        return await world.deliver(5)

    assert run(scenario()) == ["250 2.0.0 mx.example took it by HTTPS"] * 5


def test_host_gets_40_deliveries_at_once_and_the_next_one_waits(monkeypatch):
    monkeypatch.setattr(delivery, "START_SECONDS", 0.05)

    async def scenario():
        world = World(monkeypatch)
        world.gate = asyncio.Event()
        sends = asyncio.create_task(world.deliver(40))
        while world.running < 40:
            await asyncio.sleep(0)
        late = await world.deliver()
        world.gate.set()
        return late, set(await sends), await world.deliver()

    taken = "250 2.0.0 mx.example took it by HTTPS"
    busy = "451 4.4.1 mx.example: is busy with other deliveries of ours"
    assert run(scenario()) == ([busy], {taken}, [taken])


ONE, TWO, THREE = (HOST._replace(name=f"{n}.example", addresses=(f"192.0.2.{n}",)) for n in "123")


@pytest.mark.parametrize(
    ("seconds", "first", "asked"),
    [
        (0, LATER, ["1.example", "2.example"]),
        (60, LATER, ["1.example", "2.example"]),
        (61, LATER, ["1.example"]),
        (0, REFUSED, ["1.example"]),
        (0, TAKEN, ["1.example"]),
    ],
)
def test_next_host_is_asked_within_a_minute_and_only_for_who_has_no_answer(
    monkeypatch, seconds, first, asked
):
    async def scenario():
        answers = {"1.example": first}
        world = World(monkeypatch, DOWN, answers, (ONE, TWO, THREE))
        world.lasts = seconds
        await world.deliver()
        return [host for way, host, _ in world.asked if way == "SMTP"]

    assert run(scenario()) == asked


@pytest.mark.parametrize(
    ("tls", "tries", "asked"),
    [
        (Tls.VERIFIED, ["verified"], 0),
        (Tls.UNVERIFIED, ["unverified"], 0),
        (Tls.OPTIONAL, ["unverified"], 1),
    ],
)
def test_only_a_domain_that_may_be_plain_is_asked_without_tls(monkeypatch, tls, tries, asked):
    async def scenario():
        world = World(monkeypatch, DOWN, "no TLS", (HOST._replace(tls=tls),))
        await world.deliver()
        return world.tls, world.ways().count("SMTP")

    assert run(scenario()) == (tries, asked)


def test_message_that_broke_off_in_tls_is_not_sent_again_without_it(monkeypatch):
    async def scenario():
        world = World(monkeypatch, DOWN, NO_SMTP, (HOST._replace(tls=Tls.OPTIONAL),))
        await world.deliver()
        return world.tls, world.ways()

    assert run(scenario()) == (["unverified"], ["HTTPS", "SMTP"])


def test_fault_of_ours_is_logged_with_its_place(monkeypatch, caplog):
    async def scenario():
        return await World(monkeypatch, KeyError("x@b")).deliver()

    assert run(scenario()) == ["451 4.3.0 internal error, see the log"]
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.getMessage().startswith("delivery broke: KeyError at ")
    assert record.getMessage().endswith(" in post>")


def test_message_without_a_last_reply_is_told_and_counted(monkeypatch, counts):
    async def scenario():
        return await World(monkeypatch, DOWN, Uncertain("no reply")).deliver()

    assert run(scenario()) == ["451 4.4.2 b: no reply"]
    failures = "chatmail_delivery_failures_total"
    assert counts == [(failures, "https", "connection"), (failures, "smtp", "uncertain")]


def test_host_is_remembered_while_smtp_comes_first_and_forgotten_then(monkeypatch):
    monkeypatch.setattr(delivery, "MAX_HOSTS_KNOWN", 3)

    async def scenario():
        world = World(monkeypatch, BUSY_503, TAKEN, [ONE])
        await world.deliver()
        world.ways()
        world.smtp = LATER
        for n in range(10, 20):
            address = (f"192.0.2.{n}",)
            world.all_hosts = [HOST._replace(name=f"{n}.example", addresses=address)]
            await world.deliver()
        world.all_hosts = [ONE]
        world.ways()
        await world.deliver()
        known = world.ways()
        world.now = 4000
        world.all_hosts = [TWO]
        await world.deliver()
        return known, "1.example" in world.made._known, len(world.made._known)

    assert run(scenario()) == (["SMTP"], False, 1)


TOO_MANY = "451 4.3.2 too many messages of this sender wait for slow hosts"


@pytest.mark.parametrize(
    ("messages", "domains", "more", "refused"),
    [(49, 1, 1, False), (50, 1, 1, True), (30, 50, 1, True), (29, 50, 50, False)],
)
def test_sender_has_50_messages_and_1500_deliveries_under_way(messages, domains, more, refused):
    async def scenario():
        gate = asyncio.Event()

        async def to_domain(domain, sender, recipients, message):
            await gate.wait()
            return dict.fromkeys(recipients, TAKEN)

        made = delivery.Transactions(to_domain)
        tasks = []
        for _ in range(messages):
            tasks += made.start("a@x", [f"x@{n}" for n in range(domains)], None).values()
        last = made.start("a@x", [f"x@{n}" for n in range(more)], None)
        bounces = made.start("", [f"x@{n}" for n in range(domains)], None)
        gate.set()
        assert (await bounces["x@0"])["x@0"] == TAKEN
        told = (await last["x@0"])["x@0"].line()
        await asyncio.gather(*tasks)
        again = await made.start("a@x", ["x@0"], None)["x@0"]
        return told == TOO_MANY, again["x@0"]

    assert run(scenario()) == (refused, TAKEN)


def test_message_that_ended_leaves_the_others_of_its_sender_under_way(monkeypatch):
    monkeypatch.setattr(delivery, "MESSAGES_PER_SENDER", 2)

    async def scenario():
        gates = {name: asyncio.Event() for name in "abcd"}

        async def to_domain(domain, sender, recipients, message):
            await gates[domain].wait()
            return dict.fromkeys(recipients, TAKEN)

        made = delivery.Transactions(to_domain)
        tasks = {name: made.start("a@x", [f"x@{name}"], None)[f"x@{name}"] for name in "ab"}
        gates["a"].set()
        await tasks["a"]
        tasks |= {name: made.start("a@x", [f"x@{name}"], None)[f"x@{name}"] for name in "cd"}
        for gate in gates.values():
            gate.set()
        told = [(await task)[f"x@{name}"].code for name, task in tasks.items()]
        await asyncio.sleep(0)
        return told, made._under_way

    assert run(scenario()) == ([250, 250, 250, 451], {})
