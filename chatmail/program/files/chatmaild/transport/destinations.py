"""The hosts that take mail for a domain (RFC 5321, 5.1): MX, implicit MX, address literals."""

import asyncio
import enum
import ipaddress
import random
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver

from chatmaild.transport.smtp_protocol import Answer

# Seconds for one lookup with all its tries. unbound gives up on a dead zone after about this time.
DNS_SECONDS = 15
# Answers of DNS, of 2 to 4 KB each.
MAX_CACHED = 1000
# The default of Postfix's smtp_mx_address_limit. A domain with more hosts wants to waste our time.
MAX_HOSTS = 5
MAX_ADDRESSES = 4
# A national provider that offers no TLS. Existing relays make this one exception too.
MAY_BE_PLAIN = frozenset({"nauta.cu"})

# The form of a name that may go into a URL, a TLS session or a lookup: the characters of host names
# (RFC 952) and `_`, which test relays have. A name whose last label is a number would be an address
# (WHATWG URL 4.8). Addresses are checked elsewhere.
MAX_NAME = 253
HOST_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*(?![0-9]+\Z)[a-z0-9_-]{1,63}")

# The owner of an MX record chooses where we connect to. So an address outside the public Internet
# is never a destination, unless the operator listed it. The networks are those of IANA's registries
# (RFC 6890). In IPv6 only global unicast, 2000::/3, is public. A table of our own gives the same
# result with every version of Python.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # between providers and their customers (RFC 6598)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local; clouds keep the secrets of machines there
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # protocols
        "192.0.2.0/24",  # documentation
        "192.168.0.0/16",  # private (RFC 1918)
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "2001::/23",  # protocols such as Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which contains an IPv4 address
        "3fff::/20",  # documentation
    )
)
PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")


class Tls(enum.Enum):
    """The TLS that a destination must offer."""

    VERIFIED = "a certificate that the system's CAs vouch for"
    UNVERIFIED = "TLS with any certificate"
    OPTIONAL = "TLS if it is offered"


class Host(NamedTuple):
    """A host that takes mail: the name in its certificate, its addresses, and its TLS."""

    name: str
    addresses: tuple[str, ...]
    tls: Tls


class NoHost(Exception):
    """No host takes mail for the domain. `answer` is the answer for the recipients."""

    def __init__(self, code: int, text: str):
        super().__init__(text)
        self.answer = Answer(code, text)


def system_resolver() -> dns.asyncresolver.Resolver:
    """Return a resolver that asks the server in /etc/resolv.conf: the relay's own unbound."""
    resolver = dns.asyncresolver.Resolver()
    # Answers of this size fit into one packet everywhere (RFC 9715). For longer answers dnspython
    # asks again by TCP.
    resolver.use_edns(0, 0, 1232)
    # Three answers are needed for each message. They are kept for the seconds that unbound names,
    # so they are no older than unbound's own.
    resolver.cache = dns.resolver.LRUCache(MAX_CACHED)
    return resolver


def is_local_address(address: str) -> bool:
    """Return whether an IP address belongs to this machine: only such an address can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True


def is_public(address: str) -> bool:
    """Return whether an IP address is in the public Internet."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and ip not in PUBLIC_IPV6:
        return False
    return not any(ip in network for network in NOT_PUBLIC)


def is_host_name(name: str) -> bool:
    """Return whether a name in lower case has the form of a host name."""
    return len(name) <= MAX_NAME and HOST_NAME.fullmatch(name) is not None


def tls_for(domain: str) -> Tls:
    """Return the TLS that the hosts of a destination domain need (contract, section 7)."""
    if domain.startswith(("_", "[")):
        return Tls.UNVERIFIED
    return Tls.OPTIONAL if domain in MAY_BE_PLAIN else Tls.VERIFIED


def literal_address(domain: str) -> str:
    """Return the IP address in `[1.2.3.4]` or `[IPv6:2001:db8::1]` (RFC 5321, 4.1.3).

    Raises NoHost for another text.
    """
    literal = domain[1:-1]
    try:
        if literal.lower().startswith("ipv6:"):
            return str(ipaddress.IPv6Address(literal[5:]))
        return str(ipaddress.IPv4Address(literal))
    except ValueError:
        raise NoHost(550, f"5.1.2 {domain} is no valid address literal") from None


class Destinations:
    """Finds the hosts of a domain, the preferred one first.

    own_names: names of this relay. Mail for a domain whose best MX is one of them would loop.
    use_ipv6: False when the operator disabled IPv6.
    private_networks: networks that may be destinations although they are not public.
    resolver, is_ours: tests replace them.
    """

    def __init__(
        self,
        own_names: Iterable[str],
        use_ipv6: bool,
        resolver: dns.asyncresolver.Resolver | None = None,
        is_ours: Callable[[str], bool] = is_local_address,
        private_networks: Iterable[str] = (),
    ):
        self._own_names = frozenset(name.lower() for name in own_names)
        self._types = ("A", "AAAA") if use_ipv6 else ("A",)
        self._resolver = resolver or system_resolver()
        self._is_ours = is_ours
        self._private = [ipaddress.ip_network(network) for network in private_networks]

    async def hosts(self, domain: str) -> AsyncIterator[Host]:
        """Yield the hosts of a domain in the order in which they must be tried.

        domain: the part of the recipient's address after the @, in lower case.
        The addresses of a host are looked up when its turn comes, so a backup MX whose DNS is dead
        does not delay the first host. Raises NoHost when the domain has no usable host.
        """
        reason = None
        found = False
        for name in await self._names(domain):
            try:
                addresses = await self.addresses(name)
            except NoHost as error:
                # A temporary error is kept, because that host may exist later.
                if reason is None or error.answer.temporary:
                    reason = error
                continue
            if name in self._own_names or any(self._is_ours(a) for a in addresses):
                # RFC 5321, 5.1: a relay must not deliver to itself, nor to a less preferred host.
                reason = NoHost(550, f"5.4.6 mail for {domain} loops back to this relay")
                break
            allowed = tuple(a for a in addresses if self._may_be_asked(a))
            if allowed:
                found = True
                yield Host(name, allowed, tls_for(domain))
            else:
                reason = reason or NoHost(550, f"5.4.4 {name} has no public address")
        if not found:
            raise reason

    def _may_be_asked(self, address: str) -> bool:
        ip = ipaddress.ip_address(address)
        return is_public(address) or any(ip in network for network in self._private)

    async def _names(self, domain: str) -> list[str]:
        """Return the host names of a domain's MX by preference, or the host that replaces an MX."""
        if domain.startswith("["):
            return [literal_address(domain)]
        if not is_host_name(domain):
            raise NoHost(550, f"5.1.2 {domain} is no domain name")
        records = await self._look_up(domain, "MX")
        if not records:
            return [domain]
        if any(record.exchange == dns.name.root for record in records):
            # RFC 7505.
            raise NoHost(556, f"5.1.10 {domain} accepts no mail (null MX)")
        random.shuffle(records)
        found = [(r.preference, r.exchange.to_text(omit_final_dot=True).lower()) for r in records]
        # Among hosts of equal preference this relay comes first, so that the others are left out.
        found.sort(key=lambda host: (host[0], host[1] not in self._own_names))
        names = [name for _, name in found if is_host_name(name)]
        if not names:
            raise NoHost(550, f"5.4.4 no MX of {domain} is a host name")
        return names[:MAX_HOSTS]

    async def addresses(self, name: str) -> tuple[str, ...]:
        """Return the addresses of a host. IPv4 comes first, because it works in more places.

        Raises NoHost: permanent when the host has no address, temporary when DNS did not answer.
        """
        if is_ip(name):
            if ":" in name and "AAAA" not in self._types:
                raise NoHost(550, "5.4.4 IPv6 is disabled on this relay")
            return (name,)
        results = await asyncio.gather(
            *(self._look_up(name, rdtype) for rdtype in self._types), return_exceptions=True
        )
        found = [r.address for result in results if isinstance(result, list) for r in result]
        if found:
            return tuple(found[:MAX_ADDRESSES])
        errors = [result for result in results if isinstance(result, BaseException)]
        errors.sort(key=lambda error: not (isinstance(error, NoHost) and error.answer.temporary))
        raise errors[0] if errors else NoHost(550, f"5.4.4 {name} has no address")

    async def _look_up(self, name: str, rdtype: str) -> list:
        """Return the records of a name and a type, an empty list without any. Raises NoHost."""
        absolute = dns.name.from_text(name)
        try:
            answer = await self._resolver.resolve(absolute, rdtype, lifetime=DNS_SECONDS)
        except dns.resolver.NoAnswer:
            return []
        except dns.resolver.NXDOMAIN:
            raise NoHost(550, f"5.1.2 {name} does not exist") from None
        except (dns.exception.DNSException, OSError) as error:
            kind = type(error).__name__
            raise NoHost(451, f"4.4.3 DNS did not answer for {name} {rdtype} ({kind})") from None
        return list(answer)


def is_ip(name: str) -> bool:
    """Return whether the name of a host is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
