"""Steps of an orchestration: what failed on a minion, in words; and calls that stop at a failure.

Each failure of a call is a CommandExecutionError, which says where it happened, at which step, and
why. `ask` is `chatmail_asking.ask`: a file of `_utils` cannot call another one by itself.
"""

import base64
import os
import sys

import salt.crypt
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
    steps = found.get("steps") if isinstance(found.get("steps"), list) else []
    failed = [each for each in steps if isinstance(each, dict) and each.get("result") is False]
    said = "; ".join(f"{each.get('name')}: {each.get('comment')}" for each in failed)
    return said or str(found.get("comment") or "it says that it failed")


def is_result(states):
    """Return whether a value has the form of what `state.apply` returns."""
    needed = {"result", "changes", "comment"}
    return isinstance(states, dict) and all(
        isinstance(each, dict) and needed <= set(each) for each in states.values()
    )


def failed_states(states):
    """Return what the failed ones of these states say, empty without any.

    states: what `state.apply` returned on one minion.
    """
    if not is_result(states):
        return "it returned no result of states"
    failed = [each for each in states.values() if each["result"] is False]
    return "; ".join(
        f"{each.get('__id__')}: {' '.join(str(each['comment']).split())}" for each in failed
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


def prove(pki_dir, minion, name, answer):
    """Return a value of an answer after a proof that it comes from this minion.

    pki_dir: the directory with the keys that the master accepted. name: the value's name. answer:
    has `signature`, too (`chatmail_identity.sign`). Salt lets each minion answer in the name of
    another one. Raises CommandExecutionError.
    """
    path = os.path.join(pki_dir, "minions", minion)
    try:
        text, signature = f"chatmail_move {answer[name]}", base64.b64decode(answer["signature"])
        good = salt.crypt.verify_signature(path, text.encode(), signature)
    except (KeyError, TypeError, ValueError, OSError):
        good = False
    if not good:
        raise CommandExecutionError(
            f"{minion}: {name}: expected a signature by the key in {path}. Another minion may have "
            f"answered in the name of {minion}: look at all relays of this master"
        )
    return answer[name]


def apply(ask, minion, sls, **more):
    """Apply states on a minion; return the number of states that changed something.

    more: further arguments of `state.apply`.
    """
    done = call(ask, sls, minion, "state.apply", CONVERGE_SECONDS, mods=sls, **more)
    if why := failed_states(done):
        raise CommandExecutionError(f"{minion}: {sls}: {why}")
    return sum(bool(each["changes"]) for each in done.values())
