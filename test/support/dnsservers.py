"""Real name servers on loopback addresses: Knot and BIND with TSIG, and Unbound as a resolver.

The root zone on ROOT delegates example.org and example.net to the addresses below. So code under
test finds them in the normal way, by /etc/resolv.conf and delegation. All servers listen on port 53
of loopback addresses.
"""

import contextlib
import os
import subprocess
import time
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype
import dns.tsig
import dns.update
import dns.zone
import pytest

# Each process has its own network, so two test runs on one machine do not disturb each other.
NETWORK = f"127.{64 + os.getpid() // 250 % 64}.{os.getpid() % 250}"
ROOT, RESOLVER = f"{NETWORK}.1", f"{NETWORK}.2"
# Two servers of the zone example.org. The primary takes updates.
PRIMARY, SECONDARY = f"{NETWORK}.3", f"{NETWORK}.4"
# The server of the zone example.net, which belongs to somebody else.
ELSEWHERE = f"{NETWORK}.5"
# Nothing listens here.
NOBODY = f"{NETWORK}.9"

SECRET = "9fH8kEw0m5h0p0s1fB0wVqY3l6v2m4o8b5Xn1sYxQ1k="
# The secret of a key that may query and may not update.
READER_SECRET = "3fH8kEw0m5h0p0s1fB0wVqY3l6v2m4o8b5Xn1sYxQ1k="

ROOT_ZONE = f"""\
. 60 SOA ns. hostmaster. 1 3600 600 86400 1
. 60 NS ns.
ns. 60 A {ROOT}
example.org. 60 NS ns1.example.org.
ns1.example.org. 60 A {PRIMARY}
example.net. 60 NS ns.example.net.
ns.example.net. 60 A {ELSEWHERE}
dead. 60 NS ns.dead.
ns.dead. 60 A {NOBODY}
"""
# Records of the operator's other services. They must stay whatever we publish.
OTHERS = """\
@ 60 MX 10 mx.other.example.
@ 60 TXT "proof=of somebody"
chat 60 TXT "proof=of ownership" "; with \\"quotes\\""
chat 60 CAA 0 iodef "mailto:admin@example.org"
_dmarc 60 TXT "v=DMARC1; p=none"
www 60 A 203.0.113.80
"""
ZONE = f"""\
$ORIGIN example.org.
@ 60 SOA ns1 hostmaster 1 3600 600 86400 1
@ 60 NS ns1
ns1 60 A {PRIMARY}
"""
ELSEWHERE_ZONE = f"""\
$ORIGIN example.net.
@ 60 SOA ns hostmaster 1 3600 600 86400 1
@ 60 NS ns
ns 60 A {ELSEWHERE}
web 60 A 203.0.113.99
relay 60 A 198.51.100.7
"""

KNOT = """\
server:
    rundir: "{directory}"
    listen: "{address}@53"
    background-workers: 1
    udp-workers: 1
    tcp-workers: 1
database:
    storage: "{directory}"
log:
  - target: stderr
    any: warning
key:
  - id: relay
    algorithm: hmac-sha256
    secret: "{secret}"
  - id: reader
    algorithm: hmac-sha256
    secret: "{reader}"
acl:
  - id: update
    key: relay
    action: [update, transfer]
  - id: ask
    key: reader
    action: query
  - id: copy
    address: 127.0.0.0/8
    action: [transfer, notify]
{remotes}
zone:
{zones}
"""
BIND = """\
options {{
    directory "{directory}";
    listen-on port 53 {{ {address}; }};
    listen-on-v6 {{ none; }};
    pid-file "{directory}/named.pid";
    session-keyfile "{directory}/session.key";
    recursion no;
    dnssec-validation no;
    notify no;
}};
controls {{ }};
key "relay" {{ algorithm hmac-sha256; secret "{secret}"; }};
key "reader" {{ algorithm hmac-sha256; secret "{reader}"; }};
{zones}
"""
UNBOUND = """\
server:
    interface: {address}
    port: 53
    chroot: ""
    username: ""
    directory: "{directory}"
    pidfile: "{directory}/unbound.pid"
    use-syslog: no
    do-daemonize: no
    do-ip6: no
    do-not-query-localhost: no
    root-hints: "{directory}/hints"
    module-config: "iterator"
    cache-max-ttl: 0
    cache-max-negative-ttl: 0
    local-zone: "100.51.198.in-addr.arpa." nodefault
remote-control:
    control-enable: no
"""


@contextlib.contextmanager
def _daemon(argv, address, zone):
    """Run a server until the end of the block. The block begins when it answers for the zone."""
    directory = Path(argv[-1]).parent
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 15
        while not answers(address, zone):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{argv[0]} does not run: {(directory / 'log').read_text()}")
            time.sleep(0.02)
        yield directory
    finally:
        process.terminate()
        process.wait(timeout=15)


def answers(address, zone):
    """Tell whether a server answers for a zone."""
    with contextlib.suppress(OSError, dns.exception.DNSException):
        response = dns.query.udp(dns.message.make_query(zone, "SOA"), address, timeout=0.5)
        return response.rcode() == 0 and bool(response.answer)
    return False


def knot(directory, address, zones, secondary_of=None, notify=None):
    """Run Knot with {zone: text}. With `secondary_of`, it copies the zones from that address."""
    directory.mkdir()
    rows, remotes = "", ""
    for name, text in zones.items():
        rows += f'  - domain: "{name}"\n    storage: "{directory}"\n    file: "{name}zone"\n'
        rows += "    acl: [update, ask, copy]\n    zonefile-load: difference-no-serial\n"
        rows += "    journal-content: all\n"
        if secondary_of:
            rows += "    master: other\n"
        else:
            (directory / f"{name}zone").write_text(text)
        if notify:
            rows += "    notify: other\n"
    if secondary_of or notify:
        remotes = f'remote:\n  - id: other\n    address: "{secondary_of or notify}@53"'
    values = {"secret": SECRET, "reader": READER_SECRET, "zones": rows, "remotes": remotes}
    (directory / "knot.conf").write_text(
        KNOT.format(directory=directory, address=address, **values)
    )
    return _daemon(["knotd", "-c", str(directory / "knot.conf")], address, next(iter(zones)))


@contextlib.contextmanager
def bind(directory, address, zones):
    """Run BIND with {zone: text}. It listens only on addresses that an interface has."""
    directory.mkdir()
    rows = ""
    for name, text in zones.items():
        (directory / f"{name}zone").write_text(text)
        rows += f'zone "{name}" {{ type primary; file "{name}zone"; check-names ignore;\n'
        rows += (
            "    allow-transfer { key relay; }; update-policy { grant relay zonesub any; }; };\n"
        )
    values = {"secret": SECRET, "reader": READER_SECRET, "zones": rows}
    (directory / "named.conf").write_text(
        BIND.format(directory=directory, address=address, **values)
    )
    argv = ["named", "-g", "-c", str(directory / "named.conf")]
    with _on_loopback(address), _daemon(argv, address, next(iter(zones))):
        yield directory


@contextlib.contextmanager
def _on_loopback(address):
    """Add an address of 127/8 to the loopback interface, which otherwise does not list it."""
    change = ["ip", "address", "add", f"{address}/32", "dev", "lo"]
    if address.startswith("127."):
        subprocess.run(change, check=True)
    try:
        yield
    finally:
        if address.startswith("127."):
            subprocess.run([*change[:2], "delete", *change[3:]], check=True)


def unbound(directory, address=RESOLVER):
    """Run a resolver that starts at ROOT."""
    directory.mkdir()
    (directory / "hints").write_text(f". 60 NS ns.\nns. 60 A {ROOT}\n")
    (directory / "unbound.conf").write_text(UNBOUND.format(directory=directory, address=address))
    return _daemon(["unbound", "-d", "-c", str(directory / "unbound.conf")], address, ".")


def contents(address, zone="example.org."):
    """Return all records of a zone except the SOA, as texts (name, type, data)."""
    found = dns.zone.from_xfr(dns.query.xfr(address, zone, keyring=_key(), lifetime=10))
    return {
        (str(name.derelativize(found.origin)), dns.rdatatype.to_text(data.rdtype), data.to_text())
        for name, _ttl, data in found.iterate_rdatas()
        if data.rdtype != dns.rdatatype.SOA
    }


def set_records(name, rdtype, *data, address=PRIMARY, zone="example.org."):
    """Replace all records of a name and type, as the operator may do."""
    message = dns.update.UpdateMessage(zone, keyring=_key())
    message.delete(name, rdtype)
    for each in data:
        message.add(name, 60, rdtype, each)
    response = dns.query.tcp(message, address, timeout=10)
    assert response.rcode() == 0, response


def _key():
    return dns.tsig.Key("relay", SECRET, "hmac-sha256")


SERVERS = {"knot": knot, "bind": bind}


def key_file(directory, name="relay", secret=SECRET):
    """Write a key file as tsig-keygen does, which only its owner can read. Return its path."""
    path = directory / "tsig.key"
    path.touch(mode=0o600)
    path.write_text(f'key "{name}" {{\n\talgorithm hmac-sha256;\n\tsecret "{secret}";\n}};\n')
    return path


GOOD_ZONE = f"@ 60 SOA ns hostmaster 1 3600 600 86400 1\n@ 60 NS ns\nns 60 A {PRIMARY}\n"
both = pytest.mark.parametrize("kind", ["knot", "bind"])


@contextlib.contextmanager
def world(tmp_path, kind="knot", zone=ZONE + OTHERS, root=None):
    """Run the root, a resolver, a server of example.net and a primary of example.org."""
    elsewhere = {"example.net.": ELSEWHERE_ZONE}
    with contextlib.ExitStack() as stack:
        start = stack.enter_context
        root_zone = {".": root or ROOT_ZONE}
        start(knot(tmp_path / "root", ROOT, root_zone))
        start(knot(tmp_path / "elsewhere", ELSEWHERE, elsewhere))
        start(unbound(tmp_path / "resolver"))
        start(SERVERS[kind](tmp_path / kind, PRIMARY, {"example.org.": zone}))
        yield


def text_of(rdata):
    """Return a value in the form that our records have."""
    if rdata.rdtype == dns.rdatatype.TXT:
        return b"".join(rdata.strings).decode()
    return rdata.to_text()
