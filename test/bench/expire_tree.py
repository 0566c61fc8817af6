"""The benchmark of retention. It makes a tree of mailboxes and measures time and memory on it.

It compares the program with a plain walk over all files. The exit code is 0 if time and memory are
within their limits:

    python3 test/bench/expire_tree.py --mailboxes 100000 --directory /var/tmp
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.mailbox_tree import build_tree, run_program, settings_for

FACTOR = 2  # times as fast as a plain walk
MEMORY = 64  # MiB at most, all processes together


def plain_walk(top):
    """Read size and time of each file in the simplest way. Return the number of files."""
    seen = 0
    for directory, _, files in os.walk(top):
        for file in files:
            os.stat(os.path.join(directory, file))
            seen += 1
    return seen


def timed(work):
    """Return the seconds of a call, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main():
    """Make the tree, measure, and remove it. Return the exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--mailboxes", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=10, help="in each mailbox")
    parser.add_argument(
        "--repeat",
        type=int,
        default=5,
        help="times that each is measured, in turn; the best time counts",
    )
    parser.add_argument("--directory", help="where to make the tree")
    options = parser.parse_args()
    work = tempfile.mkdtemp(prefix="expire-", dir=options.directory)
    try:
        return measure(work, options.mailboxes, options.messages, options.repeat)
    finally:
        shutil.rmtree(work)


def measure(work, mailboxes, messages, repeat):
    """Print the figures for one tree. Return 1 if the program needs too much time or memory."""
    top, config = os.path.join(work, "mail"), os.path.join(work, "relay.json")
    Path(config).write_text(json.dumps(settings_for(top)), encoding="utf-8")
    seconds, _ = timed(lambda: build_tree(top, mailboxes, messages, time.time()))
    print(f"made {mailboxes} mailboxes, {mailboxes * messages} messages in {seconds:.0f} s")
    walk, looks = time_in_turn(top, config, repeat)
    factors = {name: walk / seconds for name, seconds in looks.items()}
    print(f"plain walk and stat of all files: {walk:.2f} s (the best of {repeat})")
    for name, seconds in looks.items():
        print(f"{name}: {seconds:.2f} s, {factors[name]:.2f} times as fast")
    dry, _ = run_program(config, "run", "--dry-run")
    seconds, (done, memory) = timed(lambda: run_program(config, "run", sample=True))
    print(f"run: {seconds:.2f} s; removed {done['removed']}")
    print(f"memory at its peak: {memory:.0f} MiB, all processes together")
    print(f"announced as removed: {done['removed'] == dry['removed']}")
    return int(min(factors.values()) < FACTOR or not 0 < memory < MEMORY)


def time_in_turn(top, config, repeat):
    """Return the least seconds of a plain walk, and {name: least seconds} of report and dry run."""
    looks = {"report": ("report",), "dry run": ("run", "--dry-run")}
    walks, seconds = [], {name: [] for name in looks}
    for _ in range(repeat):  # in turn, so that other load on this machine slows down all of them
        walks.append(timed(lambda: plain_walk(top))[0])
        for name, command in looks.items():
            seconds[name].append(timed(partial(run_program, config, *command))[0])
    return min(walks), {name: min(times) for name, times in seconds.items()}


if __name__ == "__main__":
    sys.exit(main())
