"""Look at this relay: its settings, who sits on its ports, its certificate, how it is doing.

Nothing here changes the machine. Needs `psutil`, which Salt itself needs.
"""

import ipaddress
import json
import os
import socket
import urllib.request
from collections import Counter
from pathlib import Path

from salt.exceptions import CommandExecutionError

try:
    import psutil

    HAS_PSUTIL = True
except ImportError:
    HAS_PSUTIL = False

__virtualname__ = "chatmail_relay"

# What the converge wrote: the settings this machine runs with.
SETTINGS = Path("/etc/chatmail/relay.json")
DKIM_SIGNING = Path("/etc/chatmail/dkim/signing.json")
# Left by chatmail_certificate while something is wrong.
CERTIFICATE_FAILURE = Path("/var/lib/chatmail/certificate.json")

# What a relay offers to the world.
PORTS = {
    "tcp": (25, 80, 143, 443, 465, 587, 993),
    "udp": (3478,),
}
# Units whose processes may hold them once the formula has set the machine up, without the
# instance (postfix@-) and ".service". Ours all start with "chatmail-".
OUR_UNITS = {"postfix", "dovecot", "nginx", "coturn"}

# Besides the relay's own services, which the settings list.
UNITS = (
    "chatmail-iroh",
    "chatmail-metrics",
    "coturn",
    "dovecot",
    "nginx",
    "postfix",
    "unbound",
)
PACKAGES = ("dovecot-core", "nginx", "postfix", "unbound")
# Where chatmail-accounts tells what new addresses depend on.
ACCOUNTS_LIMITS = "http://127.0.0.1:3461/limits"
NOCREATE = Path("/etc/chatmail-nocreate")
# The last of each comes through nginx, which holds the client's own connection on 443.
IMAP_PORTS = {143, 993, 10993}
SMTP_PORTS = {25, 465, 587, 10465}


def __virtual__():
    if not HAS_PSUTIL:
        return False, "chatmail_relay: `psutil` is not in Salt's Python"
    return __virtualname__


def settings():
    """Return the settings that the pillar gives this relay, as states and services see them.

    A dictionary: every key of pillar.example, defaults filled in, sizes in bytes, and what is
    derived from them. Raises CommandExecutionError naming every key that is wrong, and where the
    minion's environment does not have the formula.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_relay.settings
    """
    source, saltenv = "salt://chatmail/settings.py", __opts__.get("saltenv") or "base"
    relay = __salt__["slsutil.renderer"](source, default_renderer="py", saltenv=saltenv)
    if not relay:
        raise CommandExecutionError(
            f"{source} is not in the environment {saltenv}: the environments of this minion are "
            f"{', '.join(__salt__['cp.envs']())}. Put the formula into {saltenv}, or name its "
            "environment in the minion's configuration (saltenv)"
        )
    if "error" in relay:
        raise CommandExecutionError(relay["error"])
    return relay


def ports():
    """Return the foreign processes that listen on a port which the relay needs.

    A list of {port, proto, address, process, pid, unit}, empty where the relay may go ahead. On a
    machine that the formula has not set up yet, every listener is foreign, also a mail or web
    server of Debian's: somebody set it up, and the relay would take its configuration away.
    After that, Postfix, Dovecot, nginx, coturn and our own services are known by their units.
    process, pid and unit are None where the kernel shows no process (another container's).

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_relay.ports
    """
    ours = OUR_UNITS if SETTINGS.exists() else set()
    found = []
    for proto, address, pid in _listeners():
        unit = _unit(pid)
        name = (unit or "").removesuffix(".service").partition("@")[0]
        if name in ours or (ours and name.startswith("chatmail-")):
            continue
        found.append(
            {
                "port": address.port,
                "proto": proto,
                "address": address.ip,
                "process": _process(pid),
                "pid": pid,
                "unit": unit,
            }
        )
    return sorted(found, key=lambda each: (each["port"], each["pid"] or 0, each["address"]))


def _listeners():
    """Return (proto, address, pid) of all that listens on one of our ports."""
    listeners = []
    for connection in psutil.net_connections(kind="inet"):
        tcp = connection.type == socket.SOCK_STREAM
        if tcp and connection.status != psutil.CONN_LISTEN:
            continue
        # A UDP socket with a peer is a client's that got the number by chance.
        if not tcp and connection.raddr:
            continue
        proto = "tcp" if tcp else "udp"
        if connection.laddr and connection.laddr.port in PORTS[proto]:
            listeners.append((proto, connection.laddr, connection.pid))
    return listeners


def _process(pid):
    try:
        return psutil.Process(pid).name() if pid else None
    except psutil.NoSuchProcess:
        return None


def _unit(pid):
    """Return the systemd unit of a process, such as "postfix@-.service", from its cgroup."""
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text() if pid else ""
    except OSError:
        return None
    parts = [part for line in groups.splitlines() for part in line.split("/")]
    units = [part for part in parts if part.endswith(".service")]
    return units[-1] if units else None


def certificate(path=None):
    """Return what the first certificate of a PEM file says, None where there is no such file.

    path: the file; the one that the relay's daemons read if not given.
    A dictionary: `names` (DNS names and IP addresses, sorted), `subject`, `issuer`, `not_before`
    and `not_after` (UTC, ISO 8601), `days_left`, `self_signed`, and `key_sha256`, the digest of
    its public key (SubjectPublicKeyInfo, RFC 5280). Raises CommandExecutionError when the file
    holds no certificate.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_relay.certificate
    """
    path = path or _running()["tls_certificate"]
    return __salt__["chatmail_program.call"]("certificate", "summary", {"path": path}, settings={})


def status():
    """Return how this relay is doing, for a person to read.

    A dictionary: `domain`, `form`, `tls_mode`, `addresses` (how many exist), `units` (state of
    each service that is installed), `certificate` (None before there is one), `certificate_failure`
    (None, or {time, error, missing: {name: why}} of the last attempt), `dkim_selectors` (those that
    sign now), `registration` (open, invite, closed), `limits` (see the function of this name) and
    `versions`. All of it is what the machine runs with, not what a changed pillar would make of it.
    Raises CommandExecutionError on a machine that is no relay yet.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_relay.status
    """
    relay = _running()
    return {
        "domain": relay["mail_domain"],
        "form": relay["form"],
        "tls_mode": relay["tls_mode"],
        "addresses": _count_addresses(Path(relay["mailboxes_dir"])),
        "units": _units(relay),
        "certificate": certificate(relay["tls_certificate"]),
        "certificate_failure": _certificate_failure(),
        "dkim_selectors": _selectors(),
        "registration": relay["registration"],
        "limits": limits(),
        "versions": {
            "debian": relay["debian_release"],
            "salt": __grains__.get("saltversion"),
            **{name: version for name in PACKAGES if (version := __salt__["pkg.version"](name))},
        },
    }


def limits():
    """Return what new addresses and connections are limited by, as it is now.

    {setting: {"value", "limit"}}: the load, bytes of memory and disk, new addresses of the network
    that asked for most (`max_registrations_per_hour`), connections, those of the client that has
    most (`max_smtp_connections_per_ip`), and whether `/etc/chatmail-nocreate` exists (`nocreate`).
    Values that chatmail-accounts knows are None while it does not answer.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_relay.limits
    """
    relay, connections = _running(), _connections()
    clients = [address for port, address in connections if port in SMTP_PORTS]
    # Those of nginx on this machine are clients of their own.
    shares = Counter(each for each in clients if not ipaddress.ip_address(each).is_loopback)
    values = {
        **_registration_limits(),
        "max_imap_connections": sum(port in IMAP_PORTS for port, _ in connections),
        "max_smtp_connections": len(clients),
        "max_smtp_connections_per_ip": max(shares.values(), default=0),
    }
    found = {name: {"value": values[name], "limit": relay[name]} for name in values}
    return {**found, "nocreate": {"value": NOCREATE.exists(), "limit": False}}


def _registration_limits():
    """Return {setting: value now} of what chatmail-accounts knows, None where it is silent."""
    try:
        with urllib.request.urlopen(ACCOUNTS_LIMITS, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        names = "max_load_1m", "min_available_memory", "min_free_disk_space"
        return dict.fromkeys((*names, "max_registrations_per_hour"))


def _connections():
    """Return (local port, remote address) of all TCP connections."""
    return [
        (connection.laddr.port, connection.raddr.ip.removeprefix("::ffff:"))
        for connection in psutil.net_connections(kind="tcp")
        if connection.status == psutil.CONN_ESTABLISHED
    ]


def _running():
    """Return the settings that the last converge wrote."""
    try:
        return json.loads(SETTINGS.read_text())
    except FileNotFoundError:
        raise CommandExecutionError(
            f"{SETTINGS} is not there: this machine is no relay yet. "
            "Run: salt-call state.apply chatmail"
        ) from None
    except ValueError as error:
        raise CommandExecutionError(
            f"{SETTINGS}: expected JSON, found: {error}. Run: salt-call state.apply chatmail"
        ) from None


def _count_addresses(directory):
    """Return how many addresses exist: directories that have a password."""
    try:
        with os.scandir(directory) as entries:
            return sum(
                "@" in each.name and os.path.exists(f"{each.path}/password") for each in entries
            )
    except FileNotFoundError:
        return 0


def _units(relay):
    """Return {unit: "active", "failed", …} of the relay's units that are installed."""
    ours = [f"chatmail-{name}" for name in relay.get("services", ())]
    names = [f"{name}.service" for name in (*ours, *UNITS)]
    shown = __salt__["cmd.run_stdout"](
        ["systemctl", "show", "--property=Id,LoadState,ActiveState", *names], python_shell=False
    )
    units = {}
    for block in shown.split("\n\n"):
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        if unit.get("LoadState") == "loaded":
            units[unit["Id"].removesuffix(".service")] = unit["ActiveState"]
    return units


def _certificate_failure():
    """Return what the last attempt to get a certificate failed at, None if it did not."""
    try:
        return json.loads(CERTIFICATE_FAILURE.read_text())
    except FileNotFoundError:
        return None


def _selectors():
    """Return the selectors that the filter signs with, none where it does not sign."""
    try:
        return [each["selector"] for each in json.loads(DKIM_SIGNING.read_text())["selectors"]]
    except FileNotFoundError:
        return []
