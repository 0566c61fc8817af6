"""Two relays: how long a message takes from one to the other, and how many a second go over."""

import contextlib

from bench.conversation import conversation


@contextlib.contextmanager
def https_prohibited(one, other):
    """Prohibit connections between two boxes to port 443, as a firewall that answers would do."""
    rules = []
    for here, there in ((one, other), (other, one)):
        address4, address6 = addresses(there)
        for family, address in (("-4", address4), ("-6", address6)):
            rules.append((here, f"{family} rule %s to {address} ipproto tcp dport 443 prohibit"))
    try:
        for machine, rule in rules:
            machine.run("ip " + rule % "add")
        for machine in (one, other):
            # A kept connection would have to time out first.
            machine.run("systemctl restart chatmail-transport")
        yield
    finally:
        for machine, rule in rules:
            machine.run("ip " + rule % "del")
        for machine in (one, other):
            # The service would go by SMTP first for another half hour.
            machine.run("systemctl restart chatmail-transport")


def addresses(machine):
    """Return the IPv4 and the IPv6 address of a box."""
    show = "ip {} -o address show dev host0 scope global | awk '{{print $4}}' | cut -d/ -f1"
    return [machine.run(show.format(family)).split()[0] for family in ("-4", "-6")]


def hops(one, other):
    """Return the waits in seconds of a conversation between two relays by HTTPS."""
    return conversation(one.domain, other.domain, messages=100, idle=0)[0]


def hops_by_smtp(one, other):
    """Return the waits in seconds of a conversation between two relays that cannot use HTTPS."""
    with https_prohibited(one, other):
        return conversation(one.domain, other.domain, messages=40, idle=0)[0]
