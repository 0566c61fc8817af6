"""Steps of an orchestration on one minion: call a function or apply states, and stop at a failure.

Each failure is a CommandExecutionError, which says where it happened, at which step, and why. `ask`
is `chatmail_asking.ask`: a file of `_utils` cannot call another one by itself.
"""

import sys

from salt.exceptions import CommandExecutionError

CONVERGE_SECONDS = 3600  # A Raspberry Pi needs a quarter of an hour for its first converge.


def call(ask, step, minion, function, seconds=900, **arguments):
    """Call a function on a minion; return what it returned: a dictionary, or True.

    step: what the operator reads. seconds: the longest time. arguments: those of the function.
    A result with `result: False` is a failure; the comments of its failed `steps` say why.
    """
    if sys.stderr.isatty():
        sys.stderr.write(f"{minion}: {step}\n")
    answer = ask([minion], function, lambda _minion: arguments, seconds=seconds)[minion]
    found = answer.get("answer")
    why = None if answer["result"] else answer["comment"]
    if why is None and isinstance(found, dict) and found.get("result", True) is False:
        steps = [each for each in found.get("steps", ()) if each["result"] is False]
        said = "; ".join(f"{each['name']}: {each['comment']}" for each in steps)
        why = said or found.get("comment") or "it says that it failed"
    if why:
        raise CommandExecutionError(f"{minion}: {step}: {why}")
    return found


def apply(ask, minion, sls, **more):
    """Apply states on a minion; return the number of states that changed something.

    more: further arguments of `state.apply`.
    """
    done = call(ask, sls, minion, "state.apply", CONVERGE_SECONDS, mods=sls, **more)
    failed = [each for each in done.values() if each["result"] is False]
    if failed:
        texts = [f"{each['__id__']}: {' '.join(str(each['comment']).split())}" for each in failed]
        raise CommandExecutionError(f"{minion}: {sls}: {'; '.join(texts)}")
    return sum(bool(each["changes"]) for each in done.values())
