#!/usr/bin/env python3
"""Put small faults into the services' code, and count how many of them the unit tests notice.

cosmic-ray makes the faults ("mutants"). Each is written into a copy of this checkout, and the unit
tests of its part run there. A mutant that no test notices must be explained in survivors.txt.
"""

import argparse
import ast
import contextlib
import difflib
import itertools
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGE = Path("chatmail/program/files/chatmaild")
PARTS = ("message", "filter", "dkim", "transport")
GOAL = 0.95
# The tests of the transport mostly wait, so more copies than processors run at once.
COPIES = 4
# After this many mutants, the tests run again without a fault. They must still pass.
CONTROL_EVERY = 25
# Seconds that all tests of a part may take, in addition to ten times their usual time.
PATIENCE = 300
# Bytes. A mutant with an endless loop must not use all memory.
MEMORY = 8 << 30
# Each run has its own network, so runs do not share ports, and mutants reach no other machine.
COMMAND = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
COMMAND += ["chrt", "--idle", "0", "prlimit", f"--as={MEMORY}", sys.executable, "-m", "pytest"]
COMMAND += ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", "order"]
# Without this, pytest loads plugins that are not needed, which takes longer than most tests.
ENVIRONMENT = {"PYTHONPATH": "test/mutation", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def in_annotations(code: str) -> set[tuple[int, int]]:
    """Return each (line, column) in annotations of types. A fault there only breaks the import."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        for kind in ("annotation", "returns"):
            if note := getattr(node, kind, None):
                lines = range(note.lineno, note.end_lineno + 1)
                found.update(itertools.product(lines, range(note.col_offset, note.end_col_offset)))
    return found


def mutants(code: str, most: int, seed: str):
    """Yield up to `most` mutants of a module's code, in an order that depends on the seed.

    cosmic-ray has a dozen mutants for one plus sign and two for a number. So that a sample sees
    many places, each place gives one mutant before any gives its second.
    """
    chance, tree, skipped = random.Random(seed), get_ast(code), in_annotations(code)
    places: dict[tuple, list] = {}
    for name in sorted(plugins.operator_names()):
        kind = plugins.get_operator(name)
        # Equal numbers may be one object by chance, so `is` instead of `==` shows nothing.
        if kind.arguments() or name.endswith(("_Is", "_IsNot")):
            continue
        found = (at for node in ast_nodes(tree) for at, _ in kind().mutation_positions(node))
        for occurrence, at in enumerate(found):
            if at not in skipped:
                places.setdefault((at, name.split("_")[0]), []).append((kind(), occurrence))
    groups = [chance.sample(group, len(group)) for group in places.values()]
    chance.shuffle(groups)
    seen = {ast.dump(ast.parse(code))}
    for each in filter(None, itertools.chain(*itertools.zip_longest(*groups))):
        if len(seen) > most:
            return
        try:
            mutant = mutate_code(code, *each)
            meaning = ast.dump(ast.parse(mutant))
        except (AttributeError, SyntaxError):
            # cosmic-ray cannot replace the name of each exception.
            continue
        if meaning not in seen:
            seen.add(meaning)
            yield mutant


def difference(code: str, mutant: str) -> tuple[str, str]:
    """Return the changed line before and after, without its indentation."""
    changed = list(difflib.ndiff(code.splitlines(), mutant.splitlines()))
    return tuple(
        " ".join(" ".join(each[2:] for each in changed if each[0] == sign).split()) for sign in "-+"
    )


def explained() -> set[tuple[str, ...]]:
    """Read survivors.txt: (file, line, line as the mutant has it), or (file, line) for any."""
    found, file, old, new = set(), "", "", []
    for line in (HERE / "survivors.txt").read_text().splitlines():
        sign, _, text = line.partition(" ")
        if sign == "file":
            file = text
        elif sign == "-":
            old, new = text, []
        elif sign == "+":
            new.append(text)
        elif sign == "=":
            found.update([(file, old, each) for each in new] or [(file, old)])
    return found


class Checkout:
    """A copy of this checkout, for one mutant at a time."""

    clock = itertools.count(1_000_000_000)

    def __init__(self, directory: Path):
        self.directory = directory
        self.process = None
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.check_output(listed, cwd=ROOT, text=True).split("\0"):
            if name and (ROOT / name).is_file():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, directory / name)

    def write(self, file: str, code: str) -> None:
        """Write a module. Python compiles it again only if its time differs by a second."""
        path = self.directory / PACKAGE / file
        path.write_text(code)
        os.utime(path, (stamp := next(self.clock), stamp))

    def test(self, part: str, durations: Path, timeout: float) -> str:
        """Run the tests of a part. Return "" if all pass, otherwise the first that failed."""
        self.process = subprocess.Popen(
            [*COMMAND, f"--basetemp={self.directory}/t", f"test/unit/{part}"],
            cwd=self.directory,
            env=os.environ | ENVIRONMENT | {"MUTATE_DURATIONS": str(durations)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output = self.process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            return "no end"
        finally:
            self.kill()
        failed = re.search(r"^(?:FAILED|ERROR) .*?(\w+\.py::.*)$", output, re.MULTILINE)
        return "" if self.process.returncode == 0 else failed[1] if failed else output[-200:]

    def kill(self) -> None:
        """End the tests and the processes that they started."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def test_part(part: str, files: list[str], sample: int, copies: list[Checkout]) -> Counter:
    """Test the mutants of a part's files. Return how many were noticed, explained or survived."""
    durations = copies[0].directory.with_name(f"{part}.json")
    if failed := copies[0].test(part, durations, 3600):
        sys.exit(f"A test fails without any fault: {failed}. Repair it first.")
    usual = json.loads(durations.read_text())
    timeout = 10 * sum(usual.values()) + PATIENCE
    jobs = []
    for file in files:
        code = (ROOT / PACKAGE / file).read_text()
        jobs += [(file, code, mutant) for mutant in mutants(code, sample, file)]
    for at in range(CONTROL_EVERY, len(jobs) + CONTROL_EVERY, CONTROL_EVERY + 1):
        jobs.insert(at, ("", "", ""))
    print(f"{part}: {len(usual)} tests take {sum(usual.values()):.0f} s", flush=True)
    free, counted, known = queue.SimpleQueue(), Counter(), explained()
    for copy in copies:
        free.put(copy)

    def run(file, code, mutant):
        copy = free.get()
        try:
            return outcome(copy, part, durations, timeout, file, code, mutant, known)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        try:
            tasks = as_completed([pool.submit(run, *job) for job in jobs])
            for done, task in enumerate(tasks, 1):
                became, text = task.result()
                counted[became] += 1
                print(f"{done}/{len(jobs)} {became} {text}", flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for copy in copies:
                copy.kill()
    return counted


def outcome(
    copy: Checkout,
    part: str,
    durations: Path,
    timeout: float,
    file: str,
    code: str,
    mutant: str,
    known: set,
) -> tuple[str, str]:
    """Test one mutant, or without a file the code as it is. Return the outcome and a text."""
    if not file:
        if failed := copy.test(part, durations, timeout):
            sys.exit(f"A test fails without any fault, so no figure counts: {failed}")
        return "control", "passed"
    copy.write(file, mutant)
    failed = copy.test(part, durations, timeout)
    copy.write(file, code)
    if failed:
        return "noticed", f"{file} by {failed}"
    old, new = difference(code, mutant)
    word = "explained" if known & {(file, old), (file, old, new)} else "survived"
    return word, f"{file}\n- {old}\n+ {new}"


def main() -> int:
    """Run the program. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", nargs="*", help="a part or a file, such as message/mime.py")
    parser.add_argument("--sample", type=int, default=sys.maxsize, help="mutants of each file")
    arguments = parser.parse_args()
    base = ROOT / PACKAGE
    every = [str(p.relative_to(base)) for part in PARTS for p in sorted((base / part).glob("*.py"))]
    wanted = set(arguments.what or PARTS)
    if unknown := wanted - {*PARTS, *every}:
        parser.error(f"{' '.join(unknown)}: expected {', '.join(PARTS)}, or a file in them")
    files = [file for file in every if {file, file.split("/")[0]} & wanted]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    counted = {}
    with tempfile.TemporaryDirectory(prefix="mutate-") as directory:
        copies = [Checkout(Path(directory) / str(number)) for number in range(COPIES)]
        for part, group in itertools.groupby(files, lambda file: file.split("/")[0]):
            counted[part] = test_part(part, list(group), arguments.sample, copies)
    print(f"\n{'part':10}{'mutants':>9}{'noticed':>9}{'explained':>11}{'survived':>10}")
    shares = []
    for part, count in counted.items():
        survived = count["survived"]
        total = survived + count["noticed"] + count["explained"]
        shares.append(1 - survived / max(1, total))
        figures = f"{total:9}{count['noticed']:9}{count['explained']:11}{survived:10}"
        print(f"{part:10}{figures}  {shares[-1]:.1%}")
    return 0 if all(share >= GOAL for share in shares) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
