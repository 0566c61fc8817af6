"""What a machine needs to be a relay: free ports, its Salt master, kernel limits."""

import contextlib
import ipaddress
import os
import socket

from salt.exceptions import SaltException

__virtualname__ = "chatmail_relay"

# cmdeploy's settings. A take-over removes them as its last step.
CMDEPLOY = "/usr/local/lib/chatmaild/chatmail.ini"
# The last converge wrote here the settings that this machine runs with.
SETTINGS = "/etc/chatmail/relay.json"


def __virtual__():
    if "chatmail_relay.ports" not in __salt__:
        return False, (
            "chatmail_relay needs its execution module, which needs psutil. With salt-ssh, install "
            "the package python3-psutil on the machine"
        )
    return __virtualname__


def ports_free(name):
    """Ensure that no foreign process listens on a port which the relay needs.

    name: any text. Only the output shows it.
    The state changes nothing. It fails, also in a dry run, if there is such a process, and names
    each of them. It fails, too, on a machine of cmdeploy until `chatmail_adopt.start` has finished,
    whether or not the ports are taken: a new relay would have new keys. The execution function
    `chatmail_relay.ports` says which processes are foreign.

    .. code-block:: yaml

        ports of the relay are free:
          chatmail_relay.ports_free:
            - require_in:
              - sls: chatmail.nginx
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "No port is taken."}
    with _failing(ret):
        if os.path.exists(CMDEPLOY) and not os.path.exists(SETTINGS):
            ret["result"] = False
            ret["comment"] = (
                f"cmdeploy of chatmail/relay set this machine up: {CMDEPLOY} is there. Take it "
                "over with `salt-call chatmail_adopt.start` first, as docs/adoption.md says; "
                "nothing was changed."
            )
        elif foreign := __salt__["chatmail_relay.ports"]():
            lines = "\n".join(f"- {_describe(each)}" for each in foreign)
            ret["result"] = False
            ret["comment"] = (
                f"The relay needs these ports, but other programs listen there:\n{lines}\n"
                "Stop, disable or move them, then apply the state again; nothing was changed."
            )
    return ret


def _describe(listener):
    """Return a line such as "25/tcp at 0.0.0.0: exim4, process 812 (exim4.service)"."""
    place = f"{listener['port']}/{listener['proto']} at {listener['address']}"
    if listener["pid"] is None:
        return f"{place}: a process that is not visible from here"
    unit = f" ({listener['unit']})" if listener["unit"] else ""
    return f"{place}: {listener['process']}, process {listener['pid']}{unit}"


def master_found(name, search=()):
    """Ensure that this minion finds its master through the relay's own resolver, too.

    name: any text. Only the output shows it.
    search: the domains that resolv.conf will search.
    The state changes nothing. It fails if the machine finds the name of a master now, and the
    resolver on 127.0.0.1 does not. It passes if the master has an IP address or a name in
    /etc/hosts, and on a machine without a master.

    .. code-block:: yaml

        resolver finds the Salt master:
          chatmail_relay.master_found:
            - search: [example.org]
            - require:
              - service: resolver
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "The minion keeps its master."}
    with _failing(ret):
        names = [each for each in _master_names() if _is_found(each)]
        if not names:
            return ret
        if __opts__["test"] and (awaited := __salt__["chatmail_program.awaited"]("dns")):
            return {**ret, "result": None, "comment": awaited}
        if __opts__["test"] and not __salt__["service.status"]("unbound"):
            ret.update(result=None, comment="The resolver is asked for the master once it runs.")
            return ret
        if lost := [each for each in names if not _resolves(each, search)]:
            ret["result"] = False
            ret["comment"] = (
                "The relay's own resolver does not find the Salt master of this minion: "
                f"{', '.join(lost)}. With this resolver the minion would lose its master, so "
                "/etc/resolv.conf was left as it is. Give the minion the master's IP address or a "
                "name that public DNS knows (`master` in its configuration), or put the master "
                "into /etc/hosts, or set resolver:forwarders to name servers that know it. Then "
                "apply the state again."
            )
    return ret


def _master_names():
    """Return the host names of this minion's masters that only DNS can know."""
    if __opts__["file_client"] == "local":
        return []
    given = __opts__["master"]
    hosts = [_without_port(each) for each in (given if isinstance(given, list) else [given])]
    return [each for each in hosts if not _is_ip(each) and not __salt__["hosts.get_ip"](each)]


def _without_port(master):
    """Return the host of `host`, `host:port` or an IP address."""
    host, colon, _port = master.rpartition(":")
    return host if colon and not _is_ip(master) else master


def _is_ip(host):
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _is_found(host):
    """Tell whether the machine finds a host, as it is now."""
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _resolves(host, search):
    """Return whether the relay's own resolver finds a host."""
    arguments = {"name": host, "search": list(search)}
    return __salt__["chatmail_program.call"]("dns", "resolves", arguments, settings={})


def kernel_limit(name, value):
    """Ensure that a kernel limit is at least a value, where this machine may set it.

    name: the key of sysctl(8), such as `fs.inotify.max_user_instances`.
    value: the lowest limit that is enough. A higher limit stays.
    In a container such limits belong to the host. A limit that is too low is then a warning and not
    a failure, because the relay works with it and only needs more memory.
    The state fails if there is no such limit, or if the kernel does not keep the written value.

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
            comment = f"{name} is still {now} after {value} was written: the kernel refuses it."
            ret.update(result=False, comment=comment)
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
