"""The lab's DNS: one knotd that is authoritative for all names, because it has the root zone.

Two zones are signed. `signed.example` is valid, and accepts updates by RFC 2136 with the key in
TSIG_KEY. `bogus.example` is invalid for every resolver, because the lab publishes a wrong key.
"""

import base64
import ipaddress
import json
import os
import shutil

import network
from host import RUN, LabError, await_condition, daemon_pid, lock, run, start_daemon, stop_daemon

DIRECTORY = RUN / "knot"
PID = RUN / "knotd.pid"
LOG = RUN / "knotd.log"
SETTINGS = DIRECTORY / "knot.conf"
TSIG_KEY = DIRECTORY / "tsig.key"  # in the form of tsig-keygen(8)
SIGNED, BOGUS = "signed.example.", "bogus.example."
TTL = 60  # seconds; tests that change records must not wait long

CONFIGURATION = """\
server:
    rundir: "{directory}"
    listen: ["{address}@53", "{address6}@53"]
    pidfile: "knot.pid"
    background-workers: 1
    udp-workers: 1
    tcp-workers: 1
log:
  - target: stderr
    any: warning
database:
    storage: "{directory}"
key:
  - id: "lab"
    algorithm: hmac-sha256
    secret: "{secret}"
acl:
  - id: "updates"
    key: "lab"
    action: [update, transfer]
template:
  - id: "default"
    storage: "{directory}"
    file: "%s.zone"
    semantic-checks: off
zone:
  - domain: "."
    file: "root.zone"
  - domain: "{signed}"
    dnssec-signing: on
    acl: "updates"
  - domain: "{bogus}"
    dnssec-signing: on
"""

ZONE = """\
@ {ttl} SOA ns.lab. hostmaster.lab. 1 3600 600 86400 5
@ {ttl} NS ns.lab.
"""

ROOT_ZONE = """\
. {ttl} SOA ns.lab. hostmaster.lab. 1 3600 600 86400 5
. {ttl} NS ns.lab.
ns.lab. {ttl} A {address}
ns.lab. {ttl} AAAA {address6}
acme.lab. {ttl} A {authority}
"""


def ensure():
    """Start the server, unless it runs with this configuration. The caller holds the lab's lock."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    values = {
        "directory": DIRECTORY,
        "address": network.address(network.NAMESERVER),
        "address6": network.address6(network.NAMESERVER),
        "authority": network.address(network.AUTHORITY),
        "ttl": TTL,
        "secret": tsig_secret(),
        "signed": SIGNED,
        "bogus": BOGUS,
    }
    configuration = CONFIGURATION.format(**values)
    if daemon_pid(PID) and SETTINGS.read_text() == configuration:
        return
    stop_daemon(PID)  # a server with another configuration
    # The file of a killed server would keep knotd from starting.
    (DIRECTORY / "knot.pid").unlink(missing_ok=True)
    SETTINGS.write_text(configuration)
    for name, text in (("root", ROOT_ZONE), (SIGNED, ZONE), (BOGUS, ZONE)):
        zone = DIRECTORY / f"{name.rstrip('.')}.zone"
        if not zone.exists():  # After a crash of knotd, the file has all its records.
            zone.write_text(text.format(**values))
    argv = ["nsenter", f"--net={network.namespace(network.LAB)}", "knotd", "-c", SETTINGS]
    process = start_daemon(PID, argv, LOG)
    await_condition(lambda: process.poll() is not None or answers(), 10, "the start of knotd")
    if process.poll() is not None:
        raise LabError(f"knotd did not start: {LOG.read_text().strip()[-1000:]}")


def tsig_secret():
    """Return the secret of the key that may update SIGNED. The first call makes the key."""
    if not TSIG_KEY.exists():
        secret = base64.b64encode(os.urandom(32)).decode()
        TSIG_KEY.write_text(f'key "lab" {{ algorithm hmac-sha256; secret "{secret}"; }};\n')
    return TSIG_KEY.read_text().split('"')[3]


def trust_anchors():
    """Return the trust anchors of the lab's resolvers: the key of SIGNED, a wrong one of BOGUS."""
    (key,) = [line for line in records(SIGNED, "DNSKEY") if " 257 " in line]
    rdata = key.split(" DNSKEY ")[1]
    return [f"{SIGNED} IN DNSKEY {rdata}", f"{BOGUS} IN DS 1 13 2 {'00' * 32}"]


def stop():
    """End the server and remove its records."""
    stop_daemon(PID)
    shutil.rmtree(DIRECTORY, ignore_errors=True)


def knotc(*command, check=True):
    """Send the server a command over its control socket."""
    return run("knotc", "-s", DIRECTORY / "knot.sock", *command, check=check)


def answers():
    """Return whether the server has loaded its zones and signed them."""
    return bool(records(".", "SOA") and all(records(zone, "DNSKEY") for zone in (SIGNED, BOGUS)))


def zone_of(name):
    """Return the zone of an absolute name."""
    below = [zone for zone in (SIGNED, BOGUS) if f".{name}".endswith(f".{zone}")]
    return below[0] if below else "."


def change(*commands):
    """Apply commands of knotc in one transaction for each zone.

    commands: tuples of a verb, a name and further arguments.
    When a command is wrong, no command for its zone is applied.
    """
    if not daemon_pid(PID):
        raise LabError("the lab's DNS does not run; `lab up NAME` starts it")
    with lock("dns"):
        for zone in sorted({zone_of(command[1]) for command in commands}):
            change_zone(zone, [each for each in commands if zone_of(each[1]) == zone])


def change_zone(zone, commands):
    """Apply commands to one zone in one transaction. The caller holds the lock."""
    if knotc("zone-begin", zone, check=False).returncode != 0:
        knotc("zone-abort", zone)  # A killed process left its transaction open.
        knotc("zone-begin", zone)
    try:
        for command in commands:
            knotc(command[0], zone, *command[1:])
    except LabError:
        knotc("zone-abort", zone)
        raise
    knotc("zone-commit", zone)


def absolute(name):
    """Return a name with a dot at its end."""
    return name if name.endswith(".") else f"{name}."


def set_record(name, kind, value):
    """Set the record of this name and type. It replaces all others of this name and type."""
    name, rdata = absolute(name), encoded(kind, value)
    old = [("zone-unset", name, kind)] if records(name, kind) else []
    change(*old, ("zone-set", name, TTL, kind, rdata))


def delete(name, kind=None):
    """Remove the records of a name, if it has any: those of one type, or all."""
    name = absolute(name)
    if records(name, kind):
        change(("zone-unset", name, *([kind] if kind else [])))


def records(name, kind=None):
    """Return the lines of the zone for a name: `[zone] owner ttl type data`."""
    name = absolute(name)
    shown = knotc("zone-read", zone_of(name), name, *([kind] if kind else []), check=False)
    return shown.stdout.splitlines() if shown.returncode == 0 else []


def owners(zone):
    """Return all names in a zone."""
    return {line.split()[1] for line in knotc("zone-read", zone).stdout.splitlines()}


def encoded(kind, value):
    """Return a value in the form of a zone file.

    A TXT value becomes quoted strings of at most 255 bytes (RFC 1035, 3.3.14).
    """
    if kind.upper() != "TXT":
        return value
    chunks = [value[start : start + 255] for start in range(0, len(value), 255)] or [""]
    return " ".join('"' + chunk.replace("\\", r"\\").replace('"', r"\"") + '"' for chunk in chunks)


def add_box(domain, number):
    """Publish the records that the owner of a relay's domain publishes before it has keys."""
    delete_box(number, domain)
    ipv4, ipv6 = network.address(number), network.address6(number)
    found = [(pointer, "PTR", absolute(domain)) for pointer in pointers(number)]
    if is_literal(domain):
        return
    found += [
        (domain, "A", ipv4),
        (domain, "AAAA", ipv6),
        (domain, "MX", f"10 {absolute(domain)}"),
        (f"www.{domain}", "CNAME", absolute(domain)),
        (f"mta-sts.{domain}", "CNAME", absolute(domain)),
    ]
    change(*(("zone-set", absolute(name), TTL, kind, value) for name, kind, value in found))


def delete_box(number, domain=None):
    """Remove the PTR records of a box's addresses, and its domain with all names below it."""
    gone = {absolute(pointer) for pointer in pointers(number)}
    tree = absolute(domain) if domain else None
    names = {
        owner
        for owner in owners(".") | (owners(zone_of(tree)) if tree else set())
        if owner in gone or (tree and (owner == tree or owner.endswith(f".{tree}")))
    }
    if names:
        change(*(("zone-unset", name) for name in sorted(names)))


def pointers(number):
    """Return the names of the PTR records of a box's addresses."""
    found = (network.address(number), network.address6(number))
    return [ipaddress.ip_address(address).reverse_pointer for address in found]


def is_literal(domain):
    """Return whether a mail domain is a bare IPv4 address."""
    try:
        ipaddress.IPv4Address(domain)
    except ValueError:
        return False
    return True


def from_salt(output):
    """Return the records that `salt-call --out=json chatmail_dkim.records` prints, as triples."""
    try:
        found = json.loads(output)["local"]
        return [(record["name"], record["type"], record["value"]) for record in found]
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"chatmail_dkim.records answered something else: {output[:300]}") from error
