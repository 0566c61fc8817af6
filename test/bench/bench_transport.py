"""Measures how fast chatmail-transport sends messages to one other relay, and its memory.

Run it by hand: `python3 test/bench/bench_transport.py`. The service runs as a process of its own.
The other relay runs in the process of this program, which limits the rate, too.
"""

import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), "chatmail/program/files"]

from support import running_transport  # noqa: E402
from support import transport_peers as peers  # noqa: E402

# For each round: the number of messages, the messages at once, the octets of a message.
ROUNDS = ((300, 1, 4_000), (1000, 40, 4_000), (20, 4, 15 * 2**20))


async def measure(path, process, count, at_once, size):
    """Send the messages of a round, and print one line of figures."""
    data = (b"k" * 76 + b"\r\n") * (size // 78)
    slots = asyncio.Semaphore(at_once)
    times = []

    async def one():
        async with slots:
            began = time.perf_counter()
            [reply] = await peers.lmtp_send(path, ["x@b.example"], data)
            times.append(time.perf_counter() - began)
            assert reply.startswith("250 "), reply

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    took = time.perf_counter() - began
    status = Path(f"/proc/{process.pid}/status").read_text().split("\n")
    peak = next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM:"))
    times.sort()
    print(
        f"{count} messages of {size} octets, {at_once} at once: {count / took:.0f}/s, "
        f"median {times[count // 2] * 1000:.1f} ms, worst {times[-1] * 1000:.0f} ms, "
        f"peak memory so far {peak} MB"
    )


async def main():
    """Start DNS, the other relay and the service, and measure each round."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authority = peers.Authority(directory)
        ports = peers.free_port(), peers.free_port()
        zone = {("b.example", "A"): ["127.0.0.2"]}
        https = peers.HttpsPeer()
        with running_transport.systemd(directory) as notified:
            async with (
                peers.dns_server(zone) as (_, resolver),
                https.at("127.0.0.2", ports[0], authority.server("b.example")),
                running_transport.service(
                    directory, authority, resolver.port, ports, notified
                ) as process,
            ):
                for figures in ROUNDS:
                    await measure(str(directory / "lmtp"), process, *figures)
                    https.posts.clear()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    messages = sum(count for count, _, _ in ROUNDS)
    print(f"CPU of the service: {used.ru_utime + used.ru_stime:.1f} s for {messages} messages")


asyncio.run(main())
