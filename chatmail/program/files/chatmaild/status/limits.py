"""The limits of new addresses and of connections, with their present values."""

import ipaddress
import json
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from chatmaild.accounts.nocreate import NOCREATE

# The accounts service answers the present values that limit new addresses.
ACCOUNTS_LIMITS = "http://127.0.0.1:3461/limits"
# proc(5). Without IPv6 the second file does not exist.
TCP_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
ESTABLISHED = "01"
# The last port of each set is for clients of port 443: nginx passes their connections on.
IMAP_PORTS = {143, 993, 10993}
SMTP_PORTS = {25, 465, 587, 10465}


def list_limits(settings: dict) -> dict[str, dict]:
    """Return {setting: {"value", "limit"}} in the form that `chatmail_relay.limits` describes."""
    connections = list(_list_connections())
    clients = [address for port, address in connections if port in SMTP_PORTS]
    # Connections from nginx are left out, because they belong to different clients.
    shares = Counter(address for address in clients if not address.is_loopback)
    values = {
        **_ask_accounts(),
        "max_imap_connections": sum(port in IMAP_PORTS for port, _ in connections),
        "max_smtp_connections": len(clients),
        "max_smtp_connections_per_ip": max(shares.values(), default=0),
    }
    found = {name: {"value": values[name], "limit": settings[name]} for name in values}
    return {**found, "nocreate": {"value": NOCREATE.exists(), "limit": False}}


def _ask_accounts() -> dict[str, float | None]:
    """Return {setting: present value} from the accounts service, None when it does not answer."""
    try:
        with urllib.request.urlopen(ACCOUNTS_LIMITS, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        names = "max_load_1m", "min_available_memory", "min_free_disk_space"
        return dict.fromkeys((*names, "max_registrations_per_hour"))


def _list_connections() -> Iterator[tuple[int, ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    """Yield the local port and the remote address of each established TCP connection."""
    for table in TCP_TABLES:
        if table.exists():
            for line in table.read_text().splitlines()[1:]:
                _, local, remote, state, *_ = line.split()
                if state == ESTABLISHED:
                    address = _parse_address(remote.rpartition(":")[0])
                    yield int(local.rpartition(":")[2], 16), address


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address that the kernel wrote as hexadecimal 32-bit words of the machine."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
    return getattr(address, "ipv4_mapped", None) or address
