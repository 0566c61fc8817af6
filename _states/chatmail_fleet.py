"""What the orchestrations in `chatmail/fleet/` do with relays, on the master.

A state visits its relays in parts, `at_once` relays at a time. Each step is done on all relays of a
part before the next one. After the first relay that fails, no further part begins. The result
says what was wrong where, and which relays are untouched. A second run begins with the first relay
again and finds nothing to do on those that are finished.
"""

import contextlib
import sys

from salt.exceptions import CommandExecutionError, SaltException

__virtualname__ = "chatmail_fleet"

CONVERGE_SECONDS = 3600  # A Raspberry Pi needs a quarter of an hour for its first converge.
HEALTH_SECONDS = 300


def __virtual__():
    if "chatmail_steps.failure" not in __utils__:
        return False, "chatmail_fleet runs on a master, after `salt-run saltutil.sync_all`"
    return __virtualname__


class _Stopped(CommandExecutionError):
    """A step failed. why: {relay: what was wrong}."""

    def __init__(self, step, why):
        super().__init__(step)
        self.step, self.why = step, why


def converged(name, relays, untouched=(), at_once=5, saltenv=""):
    """Ensure that the formula is in force on relays, and that these are healthy afterwards.

    name: the group's name, for the output.
    relays: the ids of the minions. untouched: those of later groups, which only the output names.
    at_once: the number of relays that work at the same time.
    saltenv: the environment of the formula; empty for that of the minions.
    A relay goes through a dry run, the converge if that would change something,
    `chatmail_relay.health`, and messages to and from the first relay of the group. With test=True
    there is only the dry run. `changes` has the number of changed states of each relay.

    .. code-block:: yaml

        first wave:
          chatmail_fleet.converged:
            - relays: [relay2, relay3]
            - at_once: 2
            - failhard: True
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    given = {"mods": "chatmail", **({"saltenv": saltenv} if saltenv else {})}
    with _failing(ret):
        for part, left in _parts(relays, at_once):
            with _stopping(part, [*left, *untouched]):
                ret["changes"] |= _converge(part, given, relays[0])
        _conclude(ret, relays)
    return ret


def called(name, relays, function, arguments=None, untouched=(), at_once=5, seconds=900):
    """Ensure that an execution function has run on relays without a failure.

    name, relays, untouched, at_once: as for `converged`.
    function, arguments: the function, and its keyword arguments as a dictionary.
    seconds: the longest time that it may take on one relay.
    A function that returns a dictionary with `result` fails when this is False. `changes` names the
    relays. With test=True nothing is called.

    .. code-block:: yaml

        backup of the first wave:
          chatmail_fleet.called:
            - relays: [relay2, relay3]
            - function: chatmail_backup.create
            - failhard: True
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    with _failing(ret):
        for part, left in _parts(relays, at_once):
            with _stopping(part, [*left, *untouched]):
                if not __opts__["test"]:
                    _ask(function, part, function, seconds, arguments)
            done = "would run" if __opts__["test"] else "ran"
            ret["changes"] |= dict.fromkeys(part, f"{function} {done}")
        _conclude(ret, relays)
    return ret


def _converge(relays, arguments, first):
    """Bring relays to their state and check them; return {relay: how many states changed}.

    first: the relay that sends messages to these and gets messages from them.
    """
    dry = _apply("dry run", relays, {**arguments, "test": True})
    todo = {relay: count for relay, states in dry.items() if (count := _count(states, None))}
    if __opts__["test"]:
        return {relay: f"{count} states would change" for relay, count in todo.items()}
    done = _apply("converge", todo, arguments)
    _ask("health", relays, "chatmail_relay.health", HEALTH_SECONDS)
    _ping(list(dict.fromkeys([first, *relays])))
    return {relay: f"{_changed(states)} states changed" for relay, states in done.items()}


def _parts(relays, at_once):
    """Yield the relays in parts of so many, each with those that come after it."""
    for start in range(0, len(relays), at_once):
        yield relays[start : start + at_once], relays[start + at_once :]


@contextlib.contextmanager
def _stopping(part, later):
    """Say which relays were begun, and which are untouched, when a relay of this part fails."""
    try:
        yield
    except _Stopped as error:
        lines = [f"{relay}: {error.step}: {why}" for relay, why in error.why.items()]
        lines.append(f"Begun: {', '.join(part)}. Untouched: {', '.join(later) or 'none'}.")
        lines.append("Mend the cause and start this again: it goes on where it stopped.")
        raise CommandExecutionError("\n".join(lines)) from None


def _conclude(ret, relays):
    """Complete the result of a state that visited all its relays."""
    if __opts__["test"] and ret["changes"]:
        ret["result"] = None
    ret["comment"] = f"{len(relays)} relays: {', '.join(relays)}"


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))


def _apply(step, relays, arguments):
    """Apply states on relays; return {relay: states}. Raises _Stopped when a state fails."""
    found = _ask(step, relays, "state.apply", CONVERGE_SECONDS, arguments)
    whys = {r: __utils__["chatmail_steps.failed_states"](states) for r, states in found.items()}
    if any(whys.values()):
        raise _Stopped(step, {relay: why for relay, why in whys.items() if why})
    return found


def _count(states, result):
    return sum(state["result"] is result for state in states.values())


def _changed(states):
    return sum(bool(state["changes"]) for state in states.values())


def _ask(step, relays, function, seconds, arguments=None):
    """Call a function on all these relays at once; return {relay: what it returned}.

    Raises _Stopped when a relay is silent or says that it failed.
    """
    answers = __utils__["chatmail_asking.ask"](
        list(relays),
        function,
        lambda _relay: arguments or {},
        at_once=max(1, len(relays)),
        seconds=seconds,
        told=lambda _done, relay, _answer: _tell(step, relay),
    )
    whys = {r: __utils__["chatmail_steps.failure"](answer) for r, answer in answers.items()}
    if any(whys.values()):
        raise _Stopped(step, {relay: why for relay, why in whys.items() if why})
    return {relay: answer["answer"] for relay, answer in answers.items()}


def _ping(relays):
    """Send messages between relays. Raises _Stopped when one is lost."""
    found = __salt__["saltutil.runner"]("chatmail_fleet.ping", kwarg={"tgt": relays})
    failed = {r: each["comment"] for r, each in found["data"].items() if not each["result"]}
    if failed:
        raise _Stopped("messages between relays", failed)


def _tell(step, relay):
    """Show somebody who waits at a terminal how far the work is."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{step}: {relay} answered\n")
