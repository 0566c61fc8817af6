#!/usr/bin/python3
"""`make bench`: measure a relay in the lab, print a table, write JSON and plots.

It needs the lab's client network: `test/lab/lab client -- .venv/bin/python test/bench/bench.py`.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The folder of this file goes from the path: `bench` is the package here, not this file.
sys.path[:1] = [str(ROOT / "test"), str(ROOT / "chatmail/program/files")]

from bench import figures, parts, plots, tables  # noqa: E402
from bench.machine import Machine, lab, others  # noqa: E402

RESULTS = Path(__file__).parent / "results"
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-s", "-q"]
# These need no relay. They print figures of their own.
COMMANDS = {
    "filter": [[*PYTEST, "test/bench/test_filter_bench.py"]],
    "transport": [[sys.executable, "test/bench/bench_transport.py"]],
    "retention": [
        [*PYTEST, "test/unit/retention/test_whole_trees.py", "-k", "large_hostile"],
        [sys.executable, "test/bench/expire_tree.py", "--mailboxes=100000", "--directory=/var/tmp"],
    ],
}
RETENTION = {"TMPDIR": "/var/tmp", "EXPIRE_MAILBOXES": "100000"}
ALL = [*parts.PARTS, "filter", "transport"]
USUAL = [name for name in ALL if "hour" not in name]


class Bench:
    """One run: its machines, and what it found.

    values: {key of a figure: number}. details: what else goes into the JSON file.
    """

    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        self.values, self.details, self.errors = {}, {"busy": {}}, {}
        self.boxes = []
        self.idle_clients = None  # those of the part begin-hour

    def box(self, name):
        """Return a converged box, which is made when it is first asked for."""
        full = f"bench-{self.options.os.removeprefix('debian-')}-{name}"
        if full not in self.boxes:
            self.boxes.append(full)
            took = parts.converges.up(full, self.options.os, self.directory)
            self.details.setdefault("first_converge", took)
        return Machine(full)

    def say(self, text):
        """Print a line at once."""
        say(text)

    def end(self):
        """End the boxes."""
        for name in self.boxes:
            with suppress(RuntimeError):
                lab("down", name)

    def part(self, name, function):
        """Run one part. A part that fails leaves its figures out and does not end the others."""
        busy = self.details["busy"][name] = busyness()
        began = time.monotonic()
        say(f"{name}: (this machine is {busy:.0f} % busy with other work)")
        try:
            function()
        except Exception as error:  # the other figures are still worth having
            self.errors[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        say(f"{name}: {time.monotonic() - began:.0f} s")


def say(text):
    """Print a line at once."""
    print(f"{datetime.datetime.now(datetime.UTC):%H:%M:%S} {text}", flush=True)


def busyness(seconds=2):
    """Return the percentage of this machine's CPU time that others use just now."""

    def look():
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        return sum(fields[:8]), fields[3] + fields[4]

    total, idle = look()
    time.sleep(seconds)
    total, idle = (now - then for now, then in zip(look(), (total, idle), strict=True))
    return 100 * (1 - idle / total) if total else 0


def command(argv):
    """Run a program that prints figures of its own; raise RuntimeError when it fails."""
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, **RETENTION}, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv[1:])} ended with {done.returncode}")


def run(bench):
    """Run all parts that were asked for, and the peers, while clients may be idle for an hour."""
    for name in bench.options.parts:
        if name in COMMANDS:
            for argv in COMMANDS[name]:
                bench.part(name, lambda argv=argv: command(argv))
        elif name != "hour":
            bench.part(name, lambda name=name: parts.PARTS[name](bench))
    bench.details["peers"] = {}
    for peer in bench.options.peers:
        name, _, box = peer.partition("=")
        found = bench.details["peers"][name] = {}
        bench.part(f"peer {name}", lambda box=box or name, found=found: parts.peer(box, found))
    if "hour" in bench.options.parts:
        bench.part("hour", lambda: parts.hour(bench))
    for name in bench.boxes:
        if ended := Machine(name).ended_services():
            bench.errors[name] = f"services that ended by themselves: {', '.join(ended)}"
    bench.values |= figures.of_cmdeploy(bench.values, bench.details["peers"])


def report(bench):
    """Print the tables and write the files."""
    release, peers = bench.options.os, bench.details["peers"]
    lines = figures.table(bench.values, release)
    if any(peers.values()):
        lines += ["", *figures.comparison(bench.values, peers)]
    record = {
        "release": release,
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}",
        "cores": os.cpu_count(),
        "figures": bench.values,
        "errors": bench.errors,
        **bench.details,
    }
    if bench.options.before:
        lines += ["", *tables.side_by_side({"before": bench.options.before, "after": record})]
    lines += ["", f"{release}, {os.cpu_count()} cores, {datetime.date.today()}"]
    lines += [f"NOT MEASURED, {name}: {error}" for name, error in bench.errors.items()]
    print("\n".join(["", *lines]), flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{release}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    say(f"written: {path.relative_to(ROOT)} {plots.draw(record, RESULTS)}")


def names(text):
    """Return the words of a list with commas or blanks."""
    return text.replace(",", " ").split()


def main():
    """Measure; return 1 when a part could not be measured. A missed goal is no failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--os", choices=["debian-12", "debian-13"], default="debian-13")
    parser.add_argument(
        "--parts", type=names, default=USUAL, help=f"all, or some; default: {' '.join(USUAL)}"
    )
    parser.add_argument("--peers", type=names, default=[], help="other relays: name=box, or a box")
    parser.add_argument("--clients", type=int, default=1000, help="clients that wait in IDLE")
    parser.add_argument("--messages", type=int, default=12_000, help="messages of the part growth")
    parser.add_argument("--before", type=tables.read, help="a JSON file of an earlier run")
    options = parser.parse_args()
    options.parts = ALL if options.parts == ["all"] else options.parts
    unknown = set(options.parts) - set(parts.PARTS) - set(COMMANDS)
    if unknown:
        parser.error(f"no such part: {' '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(options, Path(directory))
        bench.details["other_boxes"] = others()
        try:
            run(bench)
            report(bench)
        finally:
            bench.end()
    return 1 if bench.errors else 0


if __name__ == "__main__":
    sys.exit(main())
