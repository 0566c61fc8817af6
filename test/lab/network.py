"""The lab's own network: a bridge that reaches the boxes, a client beside them, and this host.

                 chatmail-lab (network namespace)              chatmail-client
    host  .254 ───────── lab0 ── bridge br0 .53 ── client0 ──────── .200
                                    │  knotd answers here
                          boxes .10 … .199 (one veth each, made by systemd-nspawn)

Nothing forwards: boxes reach each other, the client and this host, where an apt proxy answers.
"""

import ipaddress
import os
import shutil
from pathlib import Path

from host import LabError, run

NETWORK = ipaddress.ip_network("198.51.100.0/24")  # RFC 5737, documentation
NETWORK6 = ipaddress.ip_network("2001:db8:25::/64")  # RFC 3849, documentation
LAB, CLIENT, HOST = "chatmail-lab", "chatmail-client", "chatmail-host"
NAMESERVER, CLIENT_NUMBER, HOST_NUMBER = 53, 200, 254
BRIDGE_MAC = "02:00:00:00:00:53"
BOX_NUMBERS = range(10, 200)
RESOLV_CONF = Path("/etc/netns") / CLIENT / "resolv.conf"


def address(number):
    """The lab's IPv4 address with this last byte."""
    return str(NETWORK[number])


def address6(number):
    """The lab's IPv6 address that belongs to the IPv4 one with this last byte."""
    return str(NETWORK6[int(str(number), 16)])


def namespace(name):
    """The file that names a network namespace, as `ip netns` keeps it."""
    return Path("/run/netns") / name


def exists(name):
    """True when the namespace is there and alive: a crash of the machine leaves empty files."""
    path = namespace(name)
    return path.exists() and run("nsenter", f"--net={path}", "true", check=False).returncode == 0


def inside(name, *argv):
    """Run a command in a network namespace."""
    return run("nsenter", f"--net={namespace(name)}", *argv)


def is_client():
    """True when this process stands in the client's network instead of the host's."""
    path = namespace(CLIENT)
    return path.exists() and path.stat().st_ino == os.stat("/proc/self/ns/net").st_ino


def ensure():
    """Make what is missing of the network. The caller holds the lab's lock."""
    if not all(exists(name) for name in (LAB, CLIENT, HOST)) or not host_link_is_up():
        remove()
        create()


def host_link_is_up():
    """True when the host's end of the veth pair is there with its address."""
    shown = run("ip", "-4", "-o", "address", "show", "dev", "lab0", check=False)
    return f"{address(HOST_NUMBER)}/" in shown.stdout


def create():
    """Make the namespaces, the bridge and the host's and client's links to it."""
    taken = run("ip", "route", "show", "root", NETWORK).stdout.strip()
    if taken:
        raise LabError(f"the lab needs {NETWORK}, and this machine uses it already: {taken}")
    for name in (LAB, CLIENT):
        run("ip", "netns", "add", name)
        inside(name, "ip", "link", "set", "lo", "up")
    # Verbs that are called from the client's network find back to the host's by this name.
    run("ip", "netns", "attach", HOST, os.getpid())
    # An address of its own: else it takes that of one of its ports, and changes as boxes come and
    # go, so that everybody's packets to the DNS are lost for some seconds.
    inside(LAB, "ip", "link", "add", "br0", "address", BRIDGE_MAC, "type", "bridge")
    set_up(LAB, "br0", NAMESERVER)
    for name, link, number, peer in (
        (HOST, "lab0", HOST_NUMBER, "host0"),
        (CLIENT, "eth0", CLIENT_NUMBER, "client0"),
    ):
        inside(LAB, "ip", "link", "add", peer, "type", "veth", "peer", "name", link, "netns", name)
        inside(LAB, "ip", "link", "set", peer, "master", "br0", "up")
        set_up(name, link, number)
    RESOLV_CONF.parent.mkdir(parents=True, exist_ok=True)
    RESOLV_CONF.write_text(resolv_conf())


def set_up(name, link, number):
    """Give a link its two addresses and switch it on. No duplicate detection: it takes 2 s."""
    inside(name, "ip", "address", "add", f"{address(number)}/24", "dev", link)
    inside(name, "ip", "address", "add", f"{address6(number)}/64", "dev", link, "nodad")
    inside(name, "ip", "link", "set", link, "up")


def resolv_conf():
    """What a member of the lab has in /etc/resolv.conf."""
    return f"nameserver {address(NAMESERVER)}\n"


def remove():
    """Take the whole network away, also one that a crash left half made."""
    run("ip", "link", "delete", "lab0", check=False)
    for name in (LAB, CLIENT, HOST):
        if namespace(name).exists():
            run("ip", "netns", "delete", name)
    shutil.rmtree(RESOLV_CONF.parent, ignore_errors=True)
