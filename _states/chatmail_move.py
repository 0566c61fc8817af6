"""What the orchestrations of a move do with its two machines, on the master.

Each step can be done again. What the two machines say about themselves tells where a move stands
(`_utils/chatmail_moving.py`). So a second run goes on where the first one stopped, and the way back
is the same move in the other direction.
"""

import contextlib
import fcntl
import os
import time

from salt.exceptions import CommandExecutionError, SaltException

__virtualname__ = "chatmail_move"

COPY_SECONDS = 6 * 3600
# Copies while the old machine serves go on until one takes less than this, in seconds.
SHORT, MOST_COPIES = 15, 5


def __virtual__():
    if "chatmail_steps.call" not in __utils__:
        return False, "chatmail_move runs on a master, after `salt-run saltutil.sync_all`"
    return __virtualname__


def moved(name, source, target):
    """Ensure that a relay runs on another machine, with all it has, and no longer on this one.

    source, target: the ids of the two minions, whose pillars have the same mail domain.
    `changes` says what was moved, and the seconds without mail: from the moment at which the old
    machine takes no mail until the new one has started. With test=True there are only the checks.
    Where the pillar has no way to publish DNS records, the comment has them until DNS has them.

    .. code-block:: yaml

        relay moves:
          chatmail_move.moved:
            - source: old
            - target: new
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    with _failing(ret), _alone():
        found = _look(source, target)
        finished = __utils__["chatmail_moving.is_finished"](found, source, target)
        if not finished:
            __utils__["chatmail_moving.check"](found, source, target)
        if not __opts__["test"]:
            ret["changes"] = {} if finished else _move(found, source, target)
            ret["comment"] = _finish(found, source, target)
        elif finished:
            ret["comment"] = f"{target} serves, and mail is off on {source}"
        else:
            ret.update(result=None, changes={target: f"would get the relay of {source}"})
    return ret


def purged(name, source, target):
    """Ensure that nothing of a moved relay is left on the machine that it left.

    source: the machine that is purged. target: the machine that has the relay. It must serve and
    be healthy. Mail, keys and users on `source` are deleted by `chatmail.clean`. After that there
    is no way back. With test=True there are only the checks.

    .. code-block:: yaml

        old machine is empty:
          chatmail_move.purged:
            - source: old
            - target: new
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    with _failing(ret), _alone():
        found = _look(source, target)
        if not __utils__["chatmail_moving.is_finished"](found, source, target):
            raise CommandExecutionError(
                f"{source} says {found[source]['mail_off']!r}, and {target} says "
                f"{found[target]['mail_off']!r}; expected: a finished move from {source} to "
                f"{target}. Nothing was changed"
            )
        if not found[source]["formula"]:
            ret["comment"] = f"{source} has no relay any more"
        elif __opts__["test"]:
            ret.update(result=None, changes={source: "would be purged"})
        else:
            _call("health", target, "chatmail_relay.health")
            _apply(source, "chatmail.clean", pillar={"chatmail": {"clean": {"purge": True}}})
            ret["changes"] = {source: "purged"}
    return ret


@contextlib.contextmanager
def _alone():
    """Hold the lock of moves on this master, so that two of them never meet."""
    path = os.path.join(__opts__["cachedir"], "chatmail_move.lock")
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandExecutionError("another move runs on this master: wait for it") from None
        yield


def _look(*machines):
    """Return {machine: what it says about itself}. A new minion first gets the modules."""
    for machine in machines:
        _apply(machine, "chatmail.modules")
    return {machine: _call("checks", machine, "chatmail_move.state") for machine in machines}


def _move(found, source, target):
    """Bring the relay to the other machine; return what was moved, and the time without mail."""
    gone, comes = __utils__["chatmail_moving.reasons"](source, target)
    if found[source]["mail_off"] == __utils__["chatmail_moving.reasons"](target, source)[1]:
        # Mail never was on at the source, so it has nothing that the target lacks.
        _call("mail on", target, "chatmail_move.on")
        return {target: "mail is on again", "addresses": found[target]["addresses"]}
    for machine in (source, target):
        _apply(machine, "chatmail.move")
    _call("mail off", target, "chatmail_move.off", reason=comes)
    _apply(target, "chatmail")
    try:
        given = _authorise(found, source, target)
        for _ in range(MOST_COPIES):
            began = time.monotonic()
            _call("copy", target, "chatmail_move.copy", COPY_SECONDS, **given)
            if time.monotonic() - began < SHORT:
                break
        with _saying_that_mail_is_off(source, target):
            before = _call("mail off", source, "chatmail_move.off", reason=gone)["seconds"]
            began = time.monotonic()
            done = _call(
                "last copy", target, "chatmail_move.copy", COPY_SECONDS, last=True, **given
            )
            if found[target]["publishes"]:
                _call("DNS", target, "chatmail_move.publish")
            after = _call("mail on", target, "chatmail_move.on")["seconds"]
        seconds = round(before + time.monotonic() - began - after, 1)
    finally:
        _forget(source, target)
    addresses = _call("count", target, "chatmail_accounts.count")["addresses"]
    moved_ = {"addresses": addresses, "seconds without mail": seconds}
    return {**moved_, "last copy": f"{done['files']} files, {done['bytes']} bytes"}


def _authorise(found, source, target):
    """Let the target read the files of the source; return the arguments of a copy."""
    prove, pki = __utils__["chatmail_steps.prove"], __opts__["pki_dir"]
    key = prove(pki, target, "public_key", _call("key", target, "chatmail_move.key"))
    given = {"public_key": key, "addresses": found[target]["own"]}
    admitted = _call("key", source, "chatmail_move.admit", **given)
    host_key = prove(pki, source, "host_key", admitted)
    return {"host_key": host_key, "addresses": found[source]["own"]}


def _forget(*machines):
    """Remove the keys. A machine that is silent removes its own after some hours."""
    for machine in machines:
        with contextlib.suppress(CommandExecutionError):
            _call("keys removed", machine, "chatmail_move.close")


@contextlib.contextmanager
def _saying_that_mail_is_off(source, target):
    try:
        yield
    except CommandExecutionError as error:
        raise CommandExecutionError(
            f"{error}\nMail is off on {source} and {target}. Run this again, and it goes on, or "
            "run chatmail.fleet.move_undo, and the old machine serves again."
        ) from None


def _finish(found, source, target):
    """Converge both machines and check them; return what there is left to do by hand."""
    _apply(target, "chatmail")
    if found[source]["formula"]:
        _apply(source, "chatmail")
    missing = ""
    if not found[target]["publishes"]:
        missing = _call("DNS", target, "chatmail_move.publish")["missing"]
    _call("health", target, "chatmail_relay.health", offline=bool(missing))
    # Behind the same NAT both machines have one public address.
    old = [each for each in found[source]["own"] if each not in found[target]["own"]]
    _call("old machine", target, "chatmail_move.silent", addresses=old)
    said = f"{target} serves {found[target]['domain']}, and {source} answers no mail"
    if not missing:
        return said
    return f"{said}. Publish these records by hand, and then run this again:\n{missing}"


def _apply(machine, sls, **more):
    ask = __utils__["chatmail_asking.ask"]
    return __utils__["chatmail_steps.apply"](ask, machine, sls, **more)


def _call(step, machine, function, seconds=900, **arguments):
    ask = __utils__["chatmail_asking.ask"]
    return __utils__["chatmail_steps.call"](ask, step, machine, function, seconds, **arguments)


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))
