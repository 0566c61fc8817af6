"""What the relay's own resolver on 127.0.0.1 would find, whatever resolv.conf names."""

from itertools import product

import dns.exception
import dns.resolver

ADDRESS = "127.0.0.1"
# Seconds for one question. A resolver that has just started asks from the root on.
PATIENCE = 10


def finds(name: str, search: list[str]) -> bool:
    """Return whether the resolver has an address for a host, itself or in one of the domains.

    name: a host, as a program would ask for it. search: the domains (resolv.conf(5)).
    The C library asks for all of these names before it gives up.
    """
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = [ADDRESS]
    names = [f"{name.removesuffix('.')}.", *(f"{name}.{domain}." for domain in search)]
    return any(_has(resolver, *question) for question in product(names, ("A", "AAAA")))


def _has(resolver, name, rdtype):
    try:
        return bool(resolver.resolve(name, rdtype, lifetime=PATIENCE))
    except dns.exception.DNSException:
        return False
