"""Look at this relay: its settings, the processes on its ports, its certificate, its state.

No function leaves a change. The package `chatmaild` does the work, except for the ports: they
are checked before the package exists. That check needs `psutil`, as Salt itself does.
"""

import json
import socket
from pathlib import Path

from salt.exceptions import CommandExecutionError

try:
    import psutil

    HAS_PSUTIL = True
except ImportError:
    HAS_PSUTIL = False

__virtualname__ = "chatmail_relay"

# The settings with which this machine runs. The last converge wrote them.
SETTINGS = Path("/etc/chatmail/relay.json")

# The public ports of a relay.
PORTS = {
    "tcp": (25, 80, 143, 443, 465, 587, 993),
    "udp": (3478,),
}
# The units whose processes may hold these ports after the first converge, without the instance
# (postfix@-) and without ".service". The relay's own units have the prefix "chatmail-".
OUR_UNITS = {"postfix", "dovecot", "nginx", "coturn"}
# Packages whose versions `status` shows.
PACKAGES = ("dovecot-core", "nginx", "postfix", "unbound")


def __virtual__():
    if not HAS_PSUTIL:
        return False, (
            "chatmail_relay needs psutil, which Salt's Python lacks. With salt-ssh, which uses "
            "Debian's Python, install the package python3-psutil on the machine"
        )
    return __virtualname__


def settings():
    """Return the settings that the pillar gives this relay, as states and services see them.

    A dictionary: every key of pillar.example, defaults filled in, sizes in bytes, and what is
    derived from them. A function that salt-ssh calls gets neither the formula nor the pillar; it
    returns the settings that the last converge wrote. Raises CommandExecutionError naming every key
    that is wrong, and where the minion's environment does not have the formula.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_relay.settings
    """
    source, saltenv = "salt://chatmail/settings.py", __opts__.get("saltenv") or "base"
    relay = __salt__["slsutil.renderer"](source, default_renderer="py", saltenv=saltenv)
    if not relay and _is_salt_ssh():
        return _read_settings()
    if not relay:
        raise CommandExecutionError(
            f"{source} is not in the environment {saltenv}: the environments of this minion are "
            f"{', '.join(__salt__['cp.envs']())}. Put the formula into {saltenv}, or name its "
            "environment in the minion's configuration (saltenv)"
        )
    if "error" in relay:
        raise CommandExecutionError(relay["error"])
    return relay


def _is_salt_ssh():
    """Tell whether salt-ssh has brought this Salt along; its root directory has this name then."""
    return Path(__opts__["root_dir"]).name == "running_data"


def _read_settings():
    """Return the settings that the last converge wrote."""
    try:
        return json.loads(SETTINGS.read_text())
    except (OSError, ValueError) as error:
        raise CommandExecutionError(
            f"{SETTINGS}: expected the settings of a relay, found: {error}. Run state.apply "
            "chatmail on this machine, or salt-ssh <this machine> state.apply chatmail"
        ) from None


def ports():
    """Return the foreign processes that listen on a port which the relay needs.

    A list of {port, proto, address, process, pid, unit}. It is empty when all ports are free.
    Before the first converge every listener is foreign, also a mail server or web server from
    Debian: the relay would replace its configuration, which somebody wrote. After that, Postfix,
    Dovecot, nginx, coturn and the relay's own services are recognized by their units.
    process, pid and unit are None when the kernel does not show the process, for example a process
    of another container.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_relay.ports
    """
    ours = OUR_UNITS if SETTINGS.exists() else set()
    found = []
    for proto, address, pid in _listeners():
        unit = _find_unit(pid)
        name = (unit or "").removesuffix(".service").partition("@")[0]
        if name in ours or (ours and name.startswith("chatmail-")):
            continue
        found.append(
            {
                "port": address.port,
                "proto": proto,
                "address": address.ip,
                "process": _find_process(pid),
                "pid": pid,
                "unit": unit,
            }
        )
    return sorted(found, key=lambda each: (each["port"], each["pid"] or 0, each["address"]))


def _listeners():
    """Return (proto, address, pid) of each listener on one of the relay's ports."""
    listeners = []
    for connection in psutil.net_connections(kind="inet"):
        tcp = connection.type == socket.SOCK_STREAM
        if tcp and connection.status != psutil.CONN_LISTEN:
            continue
        # A UDP socket with a peer belongs to a client, which got this port number by chance.
        if not tcp and connection.raddr:
            continue
        proto = "tcp" if tcp else "udp"
        if connection.laddr and connection.laddr.port in PORTS[proto]:
            listeners.append((proto, connection.laddr, connection.pid))
    return listeners


def _find_process(pid):
    """Return the name of a process, None when it is unknown or has ended."""
    try:
        return psutil.Process(pid).name() if pid else None
    except psutil.NoSuchProcess:
        return None


def _find_unit(pid):
    """Return the systemd unit of a process, such as "postfix@-.service", from its cgroup."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text() if pid else ""
    except OSError:
        return None
    parts = [part for line in groups.splitlines() for part in line.split("/")]
    units = [part for part in parts if part.endswith(".service")]
    return units[-1] if units else None


def certificate(path=None):
    """Return the content of the first certificate in a PEM file, None when there is no such file.

    path: the file; by default the one that the relay's daemons use.
    A dictionary: `names` (DNS names and IP addresses, sorted), `subject`, `issuer`, `not_before`
    and `not_after` (UTC, ISO 8601), `days_left`, `self_signed`, and `key_sha256`, the digest of
    the public key (SubjectPublicKeyInfo, RFC 5280). Raises CommandExecutionError when the file
    holds no certificate.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_relay.certificate
    """
    return __salt__["chatmail_program.call"](
        "certificate", "summary", {"path": path}, settings={} if path else str(SETTINGS)
    )


def status():
    """Return the state of this relay, for a person to read.

    A dictionary: `domain`, `form`, `tls_mode`, `addresses` (their number), `mail_off` (None, or why
    `chatmail_move.off` keeps mail off), `units` (the state of each installed service),
    `unit_restarts` (how often one that ended by itself was started again), `certificate` (None
    without one), `certificate_failure` (None, or {time, error, missing: {name: reason}} of the last
    attempt), `dkim_selectors` (the keys that sign), `registration` (open, invite, closed), `limits`
    (the result of `limits`), `imap_notify`, `imap_idle` and `imap_memory` (what clients have of
    Dovecot's objects, and why), `local_files` (docs/local.md) and `versions`. A changed pillar has
    an effect at the next converge. Raises CommandExecutionError where no relay is yet.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_relay.status
    """
    found = _ask("describe")
    found["versions"]["salt"] = __grains__.get("saltversion")
    for name in PACKAGES:
        if version := __salt__["pkg.version"](name):
            found["versions"][name] = version
    return found


def limits():
    """Return the limits of new addresses and of connections, with their present values.

    {setting: {"value", "limit"}}. The values are: the load; free memory and disk space in bytes;
    the new addresses of the network that asked for most (`max_registrations_per_hour`); the number
    of connections; the connections of the client IP that has most (`max_smtp_connections_per_ip`);
    and whether `/etc/chatmail-nocreate` exists (`nocreate`). The values that come from
    chatmail-accounts are None when it does not answer. Raises CommandExecutionError on a machine
    that is not a relay yet.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_relay.limits
    """
    return _ask("limits")


def health(offline=False):
    """Use this relay like two clients, look at its machine, and say what is wrong.

    offline: True leaves out what asks DNS.
    Returns {"result", "seconds", "steps": [{"name", "result", "seconds", "comment"}]}. A step's
    result is None when it was not asked; the comment of a failed one says what was found, what is
    expected and what to do. The exit code is 1 when `result` is False. docs/health.md lists the
    steps. Raises CommandExecutionError on a machine that is not a relay yet.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_relay.health
    """
    settings = __salt__["chatmail_program.settings"](_read_settings())
    found = __salt__["chatmail_program.call"]("health", "run", {"offline": offline}, settings)
    if not found["result"]:
        __context__["retcode"] = 1
    return found


def _ask(command):
    return __salt__["chatmail_program.call"]("status", command, settings=str(SETTINGS))
