"""Steps of an orchestration: what failed on a minion, in words; and calls that stop at a failure.

Each failure of a call is a CommandExecutionError, which says where it happened, at which step, and
why. `ask` is `chatmail_asking.ask`: a file of `_utils` cannot call another one by itself.
"""

import sys

from salt.exceptions import CommandExecutionError

CONVERGE_SECONDS = 3600  # A Raspberry Pi needs a quarter of an hour for its first converge.


def failure(answer):
    """Return why a minion gave no answer, or what failed by its own words; None when all is well.

    answer: as `chatmail_asking.ask` returns it for one minion.
    """
    if not answer["result"]:
        return answer["comment"]
    found = answer["answer"]
    if not isinstance(found, dict) or found.get("result", True) is not False:
        return None
    steps = [each for each in found.get("steps", ()) if each["result"] is False]
    said = "; ".join(f"{each['name']}: {each['comment']}" for each in steps)
    return said or found.get("comment") or "it says that it failed"


def failed_states(states):
    """Return what the failed ones of these states say, empty without any.

    states: what `state.apply` returned on one minion.
    """
    failed = [each for each in states.values() if each["result"] is False]
    return "; ".join(
        f"{each['__id__']}: {' '.join(str(each['comment']).split())}" for each in failed
    )


def call(ask, step, minion, function, seconds=900, **arguments):
    """Call a function on a minion; return what it returned: a dictionary, or True.

    step: what the operator reads. seconds: the longest time. arguments: those of the function.
    A result with `result: False` is a failure; the comments of its failed `steps` say why.
    """
    if sys.stderr.isatty():
        sys.stderr.write(f"{minion}: {step}\n")
    answer = ask([minion], function, lambda _minion: arguments, seconds=seconds)[minion]
    if why := failure(answer):
        raise CommandExecutionError(f"{minion}: {step}: {why}")
    return answer["answer"]


def apply(ask, minion, sls, **more):
    """Apply states on a minion; return the number of states that changed something.

    more: further arguments of `state.apply`.
    """
    done = call(ask, sls, minion, "state.apply", CONVERGE_SECONDS, mods=sls, **more)
    if why := failed_states(done):
        raise CommandExecutionError(f"{minion}: {sls}: {why}")
    return sum(bool(each["changes"]) for each in done.values())
