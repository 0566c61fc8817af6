"""The lab's own network: a bridge with the boxes, a client, and this host.

                 chatmail-lab (network namespace)              chatmail-client
    host  .254 ───────── lab0 ── bridge br0 .53 ── client0 ── .200, .202
                                    │  knotd answers here, pebble on .201
                          boxes .10 … .199 (one veth each, made by systemd-nspawn)

There is no forwarding. Boxes reach each other, the client, and this host with the apt proxy.
"""

import ipaddress
import os
import shutil
from pathlib import Path

from host import LabError, run

NETWORK = ipaddress.ip_network("198.51.100.0/24")  # RFC 5737, documentation
NETWORK6 = ipaddress.ip_network("2001:db8:25::/64")  # RFC 3849, documentation
LAB, CLIENT, HOST = "chatmail-lab", "chatmail-client", "chatmail-host"
NAMESERVER, CLIENT_NUMBER, AUTHORITY, HOST_NUMBER = 53, 200, 201, 254
SECOND_CLIENT_NUMBER = 202  # for relays that count by IPv4 address, the client is two clients
BRIDGE_MAC = "02:00:00:00:00:53"
BOX_NUMBERS = range(10, 200)
# namespace, its link, last byte of its address, the bridge's end of the link
LINKS = ((HOST, "lab0", HOST_NUMBER, "host0"), (CLIENT, "eth0", CLIENT_NUMBER, "client0"))
RESOLV_CONF = Path("/etc/netns") / CLIENT / "resolv.conf"


def address(number):
    """Return the lab's IPv4 address with this last byte."""
    return str(NETWORK[number])


def address6(number):
    """Return the IPv6 address of the machine whose IPv4 address has this last byte."""
    return str(NETWORK6[int(str(number), 16)])


def namespace(name):
    """Return the file with which `ip netns` names a network namespace."""
    return Path("/run/netns") / name


def exists(name):
    """Return whether a namespace exists. A crash of the machine leaves files without namespaces."""
    path = namespace(name)
    return path.exists() and run("nsenter", f"--net={path}", "true", check=False).returncode == 0


def inside(name, *argv, **kwargs):
    """Run a command in a network namespace."""
    return run("nsenter", f"--net={namespace(name)}", *argv, **kwargs)


def is_client():
    """Return whether this process is in the client's network, not in the host's."""
    path = namespace(CLIENT)
    return path.exists() and path.stat().st_ino == os.stat("/proc/self/ns/net").st_ino


def leave_client(argv):
    """Replace this process, which is in the client's network, by `argv` in the host's network.

    The command also gets the host's name servers, so that a verb does the same in both networks.
    """
    script = (
        f"while [ /etc/resolv.conf -ef {RESOLV_CONF} ]; do umount /etc/resolv.conf || exit 1; done;"
        ' exec "$@"'
    )
    command = ["nsenter", f"--net={namespace(HOST)}"]
    command += ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh", *argv]
    os.execvp(command[0], command)


def ensure():
    """Make the missing parts of the network. Boxes keep theirs. The caller holds the lock."""
    if not exists(HOST):
        forget(HOST)
        # A verb in the client's network enters the host's network by this name.
        run("ip", "netns", "attach", HOST, os.getpid())
    for name in (LAB, CLIENT):
        if not exists(name):
            forget(name)
            run("ip", "netns", "add", name)
            inside(name, "ip", "link", "set", "lo", "up")
    if not has_address(LAB, "br0", NAMESERVER):
        # The bridge has its own MAC address. Otherwise it takes that of one of its ports, which
        # changes when boxes start and end. Then packets to the DNS are lost for some seconds.
        inside(LAB, "ip", "link", "add", "br0", "address", BRIDGE_MAC, "type", "bridge")
        set_up(LAB, "br0", NAMESERVER)
    if not has_address(LAB, "br0", AUTHORITY):
        set_up(LAB, "br0", AUTHORITY)
    for name, link, number, peer in LINKS:
        if not has_address(name, link, number):
            connect(name, link, number, peer)
    if not has_address(CLIENT, "eth0", SECOND_CLIENT_NUMBER):
        second = f"{address(SECOND_CLIENT_NUMBER)}/24"
        inside(CLIENT, "ip", "address", "add", second, "dev", "eth0")
    RESOLV_CONF.parent.mkdir(parents=True, exist_ok=True)
    # A client that reads this file while it is written finds it empty, and then knows no name.
    if not RESOLV_CONF.exists() or RESOLV_CONF.read_text() != resolv_conf():
        RESOLV_CONF.write_text(resolv_conf())


def connect(name, link, number, peer):
    """Connect a namespace with the bridge.

    link: the name of the link's end in the namespace. peer: the name of the end at the bridge.
    """
    if name == HOST:
        taken = run("ip", "route", "show", "root", NETWORK).stdout.strip()
        if taken:
            raise LabError(f"the lab needs {NETWORK}, but this machine uses it already: {taken}")
    inside(name, "ip", "link", "delete", link, check=False)
    inside(LAB, "ip", "link", "add", peer, "type", "veth", "peer", "name", link, "netns", name)
    inside(LAB, "ip", "link", "set", peer, "master", "br0", "up")
    set_up(name, link, number)


def has_address(name, link, number):
    """Return whether a link exists and has its address."""
    shown = inside(name, "ip", "-4", "-o", "address", "show", "dev", link, check=False)
    return f" {address(number)}/" in shown.stdout


def forget(name):
    """Remove a namespace, or the file that a crash left of it."""
    if namespace(name).exists():
        run("ip", "netns", "delete", name)


def set_up(name, link, number):
    """Give a link its two addresses and switch it on. Duplicate detection is off: it takes 2 s."""
    inside(name, "ip", "address", "add", f"{address(number)}/24", "dev", link)
    inside(name, "ip", "address", "add", f"{address6(number)}/64", "dev", link, "nodad")
    inside(name, "ip", "link", "set", link, "up")


def resolv_conf():
    """Return the text of /etc/resolv.conf for the machines of the lab."""
    return f"nameserver {address(NAMESERVER)}\n"


def remove():
    """Remove the whole network, also an incomplete one after a crash."""
    run("ip", "link", "delete", "lab0", check=False)
    for name in (LAB, CLIENT, HOST):
        forget(name)
    shutil.rmtree(RESOLV_CONF.parent, ignore_errors=True)
