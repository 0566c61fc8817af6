"""What slow, dead and many hosts cost: time, sessions and memory."""

import asyncio
import re
import time

import pytest
from chatmaild.transport import delivery, destinations, https_client
from support import transport_peers as peers
from support.running_transport import MX, world

pytestmark = pytest.mark.usefixtures("short_times")


def test_at_most_so_many_deliveries_run_to_one_host(tmp_path, authority, monkeypatch):
    monkeypatch.setattr(delivery, "PER_HOST", 5)
    https = peers.HttpsPeer()
    https.seconds = 0.02

    async def run():
        async with world(tmp_path, authority, https=https) as (_, path):
            sends = [peers.lmtp_send(path, ["x@b.example"]) for _ in range(40)]
            return await asyncio.gather(*sends)

    monkeypatch.setattr(delivery._Place, "__init__", _with_slots(delivery._Place.__init__, 5))
    replies = asyncio.run(run())
    assert {reply for [reply] in replies} == {"250 2.0.0 mx.b.example took it by HTTPS"}
    assert https.most == 5


def _with_slots(init, count):
    def made(self):
        init(self, asyncio.Semaphore(count))

    return made


# Time.


def test_black_holes_do_not_delay_a_live_relay(tmp_path, authority, monkeypatch):
    """100 messages to hosts that accept connections and say nothing, then one to a live one."""
    # No hole proves dead before all are asked: a known dead one would not be asked so often.
    monkeypatch.setattr(https_client, "CONNECT_SECONDS", 60)
    # 100 look-ups at once take a busy machine more than the second that other tests grant them.
    monkeypatch.setattr(destinations, "DNS_SECONDS", 30)
    zone = dict(MX)
    for number in range(10):
        zone[f"dead{number}.example", "A"] = [f"127.0.1.{number}"]
    holes = [f"127.0.1.{number}" for number in range(10)]
    https, hole_https, hole_smtp = peers.HttpsPeer(), peers.BlackHole(), peers.BlackHole()

    async def run():
        async with (
            world(tmp_path, authority, zone=zone, https=https) as (ours, path),
            hole_https.at(holes, ours.https_port),
            hole_smtp.at(holes, ours.smtp_port),
        ):
            dead = [
                asyncio.create_task(
                    peers.lmtp_send(
                        path, [f"x@dead{n % 10}.example"], sender=f"{n % 3}@ours.example"
                    )
                )
                for n in range(100)
            ]
            async with asyncio.timeout(60):
                while hole_https.connections < 100:
                    await asyncio.sleep(0.01)
            began = time.monotonic()
            live = await peers.lmtp_send(path, ["x@b.example"])
            took = time.monotonic() - began
            hole_https.hang_up()
            return live, took, await asyncio.gather(*dead)

    live, took, dead = asyncio.run(run())
    assert live == ["250 2.0.0 mx.b.example took it by HTTPS"]
    assert took < 1
    for [reply] in dead:
        assert re.match(r"451 4\.4\.1 dead\d\.example: HTTPS: .*; SMTP: no reply within", reply)


def test_dead_host_holds_up_only_so_many_deliveries(tmp_path, authority, monkeypatch):
    """Once a host proved dead, those that wait for their turn with it are answered at once."""
    monkeypatch.setattr(delivery._Place, "__init__", _with_slots(delivery._Place.__init__, 5))
    monkeypatch.setattr(delivery, "PER_HOST", 5)
    hole = peers.BlackHole()

    async def run():
        async with (
            world(tmp_path, authority) as (ours, path),
            hole.at("127.0.0.2", ours.https_port),
        ):
            began = time.monotonic()
            replies = await asyncio.gather(
                *(peers.lmtp_send(path, ["x@b.example"]) for _ in range(50))
            )
            return replies, time.monotonic() - began

    replies, took = asyncio.run(run())
    assert all(reply.startswith("451 4.4.1 mx.b.example: ") for [reply] in replies)
    assert sum("enough deliveries" in reply for [reply] in replies) >= 40
    # Ten rounds of five would have taken ten times the time-out of one second.
    assert took < 5
    assert hole.connections <= 10


def test_address_of_many_names_holds_up_only_so_many_deliveries(tmp_path, authority, monkeypatch):
    """120 MX names on one slow address held 120 of Postfix's 500 processes for 270 s each."""
    monkeypatch.setattr(delivery._Place, "__init__", _with_slots(delivery._Place.__init__, 5))
    monkeypatch.setattr(https_client, "CONNECT_SECONDS", 0.3)
    names = [f"mx{n}.example" for n in range(50)]
    zone = {(name, "A"): ["127.0.0.2"] for name in names}
    hole = peers.BlackHole()

    async def run():
        async with (
            world(tmp_path, authority, zone=zone) as (ours, path),
            hole.at("127.0.0.2", ours.https_port),
        ):
            sends = (peers.lmtp_send(path, [f"x@{n}"], sender=f"{n}@ours.example") for n in names)
            first = await asyncio.gather(*sends)
            before = hole.connections
            # From now on it is known, under each of its names.
            sends = (peers.lmtp_send(path, [f"x@{n}"], sender=f"{n}@ours.example") for n in names)
            return first, before, await asyncio.gather(*sends), hole.connections - before

    first, before, second, after = asyncio.run(run())
    assert all(reply.startswith("451 4.4.1 mx") for [reply] in [*first, *second])
    assert before <= 10
    assert 1 <= after <= delivery.PER_DEAD_HOST


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ],
)
def test_place_of_a_host_is_what_one_machine_has(address, place):
    host = destinations.Host("mx.example", (address, "192.0.2.8"), destinations.Tls.VERIFIED)
    assert delivery.find_place(host) == place


def test_sender_has_only_so_many_messages_under_way(tmp_path, authority, monkeypatch):
    """Two accounts held all 500 processes for two days."""
    monkeypatch.setattr(delivery, "MESSAGES_PER_SENDER", 3)
    https = peers.HttpsPeer()

    async def run():
        async with world(tmp_path, authority, https=https) as (ours, path):
            https.seconds = 30
            slow = [asyncio.create_task(peers.lmtp_send(path, ["x@b.example"])) for _ in range(3)]
            while https.running < 3:
                await asyncio.sleep(0.01)
            https.seconds = 0
            fourth = await peers.lmtp_send(path, ["x@b.example", "y@b.example"])
            others = [
                await peers.lmtp_send(path, ["x@b.example"], sender=sender)
                for sender in ("b@ours.example", "")
            ]
            for task in slow:
                task.cancel()
            await asyncio.wait(slow)
            while ours.lmtp._sessions:
                await asyncio.sleep(0.01)
            return fourth, others, await peers.lmtp_send(path, ["x@b.example"])

    fourth, others, later = asyncio.run(run())
    assert fourth == ["451 4.3.2 too many messages of this sender wait for slow hosts"] * 2
    assert [reply[:3] for [reply] in others] == ["250", "250"]
    assert later[0].startswith("250 ")


def test_sender_has_only_so_many_deliveries_under_way(monkeypatch):
    monkeypatch.setattr(delivery, "DELIVERIES_PER_SENDER", 5)

    async def run():
        done = asyncio.Event()

        async def to_domain(domain, sender, recipients, message):
            await done.wait()
            return dict.fromkeys(recipients, delivery.Answer(250, domain))

        transactions = delivery.Transactions(to_domain)
        one = transactions.start("a@x", [f"x@{n}" for n in range(3)], None)
        two = transactions.start("a@x", [f"x@{n}" for n in range(3)], None)
        codes = {(await task)[name].code for name, task in two.items()}
        three = transactions.start("a@x", ["x@1", "y@1", "x@2"], None)
        done.set()
        codes |= {(await task)[name].code for name, task in (one | three).items()}
        await asyncio.sleep(0)
        return codes, transactions._under_way

    assert asyncio.run(run()) == ({451, 250}, {})


def test_host_that_is_slow_and_takes_nothing_is_treated_as_dead(tmp_path, authority):
    smtp = peers.SmtpPeer(DATA="451 4.7.1 later")

    async def run():
        async with world(tmp_path, authority, smtp=smtp) as (ours, path):
            original = smtp.handle_DATA

            async def slow(*arguments):
                ours.clock.ahead += delivery.SLOW_SECONDS + 1
                return await original(*arguments)

            smtp.handle_DATA = slow
            await peers.lmtp_send(path, ["x@b.example"])
            [place] = ours.delivery._places.values()
            dead = place.dead
            smtp.handle_DATA = original
            await peers.lmtp_send(path, ["x@b.example"])
            return dead, place.dead

    assert asyncio.run(run()) == (True, False)


def test_dead_host_that_returned_is_used_again(tmp_path, authority):
    https = peers.HttpsPeer()

    async def run():
        async with world(tmp_path, authority) as (ours, path):
            first = await peers.lmtp_send(path, ["x@b.example"])
            async with https.at("127.0.0.2", ours.https_port, authority.server("mx.b.example")):
                return first + await peers.lmtp_send(path, ["x@b.example"])

    first, second = asyncio.run(run())
    assert first.startswith("451 4.4.1 ")
    assert second.startswith("250 ")


def test_hosts_are_given_up_when_the_time_is_over(tmp_path, authority, monkeypatch):
    monkeypatch.setattr(delivery, "START_SECONDS", 0.5)
    names = [f"mx{number}.example" for number in range(5)]
    zone = {("b.example", "MX"): [f"{10 + i} {name}." for i, name in enumerate(names)]}
    zone |= {(name, "A"): ["127.0.0.2"] for name in names}
    hole = peers.BlackHole()

    async def run():
        async with (
            world(tmp_path, authority, zone=zone) as (ours, path),
            hole.at("127.0.0.2", ours.https_port),
            hole.at("127.0.0.2", ours.smtp_port),
        ):
            return await peers.lmtp_send(path, ["x@b.example"])

    assert asyncio.run(run())[0].startswith("451 4.4.1 mx0.example: ")
    assert hole.connections == 2


def test_memory_of_hosts_is_bounded(tmp_path, authority, monkeypatch):
    monkeypatch.setattr(delivery, "MAX_HOSTS_KNOWN", 3)
    zone = {(f"d{n}.example", "A"): ["127.0.0.2"] for n in range(10)}

    async def run():
        async with world(tmp_path, authority, zone=zone) as (ours, path):
            for n in range(10):
                await peers.lmtp_send(path, [f"x@d{n}.example"])
            return len(ours.delivery._known), len(ours.delivery._places)

    assert max(asyncio.run(run())) <= 3
