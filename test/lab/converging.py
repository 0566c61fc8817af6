"""Apply the formula to a box, and show the progress."""

import json
import re
import subprocess
import sys
import tempfile
import time

import boxes
import nameserver
from host import LabError, say

# Only the log of salt-call shows its progress.
RUNNING = re.compile(r"Executing state (\S+) for \[(.*)\]")
COMMAND = ["salt-call", "--local", "--log-level=info", "--out=json", "state.apply", "chatmail"]


def converge(box, test=False):
    """Apply `chatmail` to a box. Show each state when it runs, then the changes and failures.

    Returns an exit code: 0 when every state succeeded.
    """
    result, seconds = apply(box, test)
    succeeded = report(result, seconds, test)
    if succeeded and not test:
        publish_keys(box)
    return 0 if succeeded else 1


def apply(box, test=False):
    """Apply `chatmail` to a box; return Salt's result and the time in seconds."""
    if box.bare:
        raise LabError(f"box {box.name} is bare: it has no Salt")
    boxes.bring(box)
    started = time.monotonic()
    output, errors, code = watch(box, [*COMMAND, *(["test=True"] if test else [])], started)
    try:
        return json.loads(output)["local"], time.monotonic() - started
    except (ValueError, KeyError):
        say(errors[-3000:] + output[-3000:])
        raise LabError(f"salt-call in {box.name} failed with exit code {code}") from None


def watch(box, argv, started):
    """Run salt-call and print each state when it begins.

    Returns its output, its log and its exit code.
    """
    log = []
    # The result goes to a file, because nobody reads a pipe before the end, and a full pipe would
    # stop salt-call.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            box.machine.enter_command(box, argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=lambda: box.machine.enter_cgroup(box),
        )
        for line in process.stderr:
            log.append(line)
            found = RUNNING.search(line)
            if found:
                progress(f"{time.monotonic() - started:6.1f} s  {found[1]}: {found[2]}")
        code = process.wait()
        output.seek(0)
        return output.read(), "".join(log), code


def progress(text):
    """Print a line for each state. On a terminal, each line replaces the one before."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)
    else:
        say(text)


def report(result, seconds, test):
    """Print the failures and the number of changes, or the changes that a test shows.

    Returns whether all states succeeded.
    """
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    if not isinstance(result, dict):
        # The states could not be rendered, so Salt answers with a list of messages.
        print("\n".join(result) if isinstance(result, list) else result)
        return False
    states = list(result.values())
    failed = [state for state in states if state["result"] is False]
    changed = [state for state in states if state.get("changes")]
    for state in changed if test else []:
        print(f"would change {state.get('__id__', state.get('name'))}: {state['comment']}")
    for state in failed:
        print(f"FAILED {state.get('__id__', state.get('name'))}: {state['comment']}")
        if state.get("changes"):
            print(json.dumps(state["changes"], indent=2))
    print(f"succeeded={len(states) - len(failed)} changed={len(changed)} failed={len(failed)} "
          f"in {seconds:.1f} s")  # fmt: skip
    return not failed


def publish_keys(box):
    """Put the box's DKIM records into the lab's DNS, as its operator would."""
    done = boxes.inside(
        box, "salt-call", "--local", "--out=json", "chatmail_dkim.records", check=False
    )
    if done.returncode != 0 or "is not available" in done.stdout + done.stderr:
        say(f"lab: no DKIM record loaded: {(done.stderr.strip() or done.stdout.strip())[-300:]}")
        return
    for name, kind, value in nameserver.from_salt(done.stdout):
        nameserver.set_record(name, kind, value)
