"""What must be true of a machine before it becomes a relay."""

import contextlib
import os

from salt.exceptions import SaltException

__virtualname__ = "chatmail_relay"


def __virtual__():
    if "chatmail_relay.ports" not in __salt__:
        return False, "chatmail_relay: the execution module of this name is not loaded"
    return __virtualname__


def ports_free(name):
    """Ensure that no foreign process listens on a port which the relay needs.

    name: free, a sentence about the result.
    Changes nothing; fails, also in a dry run, with every such process named. What counts as
    foreign: see the execution function `chatmail_relay.ports`.

    .. code-block:: yaml

        ports of the relay are free:
          chatmail_relay.ports_free:
            - require_in:
              - sls: chatmail.nginx
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "No foreign process in the way."}
    with _failing(ret):
        if foreign := __salt__["chatmail_relay.ports"]():
            shown = "\n".join(f"- {_shown(each)}" for each in foreign)
            ret["result"] = False
            ret["comment"] = (
                f"The relay needs these ports, but other programs listen there:\n{shown}\n"
                "Stop, disable or move them, then apply the state again; nothing was changed."
            )
    return ret


def _shown(listener):
    """Return a line such as "25/tcp at 0.0.0.0: exim4, process 812 (exim4.service)"."""
    place = f"{listener['port']}/{listener['proto']} at {listener['address']}"
    if listener["pid"] is None:
        return f"{place}: a process that is not visible from here"
    unit = f" ({listener['unit']})" if listener["unit"] else ""
    return f"{place}: {listener['process']}, process {listener['pid']}{unit}"


def kernel_limit(name, value):
    """Ensure that a kernel limit is at least a value, where this machine may set it.

    name: the key of sysctl(8), such as `fs.inotify.max_user_instances`.
    value: the least that will do; a higher one is left alone.
    In a container such limits are the host's: too low a one is then told in a warning, no failure,
    because the relay works without it and only needs more memory.
    Fails where there is no such limit, and where the kernel refuses a value that it lets us write.

    .. code-block:: yaml

        inotify instances are enough:
          chatmail_relay.kernel_limit:
            - name: fs.inotify.max_user_instances
            - value: 65535
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} is high enough."}
    with _failing(ret):
        path = "/proc/sys/" + name.replace(".", "/")
        found = _read_limit(path)
        if found >= value:
            return ret
        if not os.access(path, os.W_OK):
            ret["warnings"] = [
                f"{name} is {found} and belongs to the host of this container. "
                f"Set it there: sysctl -w {name}={value}"
            ]
            ret["comment"] = f"{name} is left to the host of this container."
            return ret
        changes = {name: {"old": found, "new": value}}
        if __opts__["test"]:
            ret.update(result=None, changes=changes, comment=f"{name} would be raised.")
            return ret
        with open(path, "w") as stream:
            stream.write(str(value))
        if (now := _read_limit(path)) < value:
            ret.update(result=False, comment=f"The kernel left {name} at {now}.")
        else:
            ret.update(changes=changes, comment=f"{name} was raised.")
    return ret


def _read_limit(path):
    with open(path) as stream:
        return int(stream.read())


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))
