"""Which hosts take mail for a domain (RFC 5321, 5.1): MX, implicit MX, address literals."""

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

# One look-up, tries and all. unbound itself gives up on a dead zone at about this time.
DNS_SECONDS = 15
# As Postfix's smtp_mx_address_limit: who lists more wants to waste our time.
MAX_HOSTS = 5
MAX_ADDRESSES = 4
# A national provider without TLS of its own. Existing relays make this one exception too.
MAY_BE_PLAIN = frozenset({"nauta.cu"})

# What a name must look like before it goes into a URL, a TLS session or a look-up: host-name
# characters (RFC 952) and `_`, which test relays have; a number at its end would make it an
# address (WHATWG URL 4.8), and those are checked elsewhere.
MAX_NAME = 253
HOST_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*(?![0-9]+\Z)[a-z0-9_-]{1,63}")

# Whoever writes an MX record chooses where we connect to, so nothing that is not on the public
# Internet is ever a destination unless the operator named it. IANA's special-purpose registries
# (RFC 6890), the same on every Python; of IPv6 only global unicast, 2000::/3, is public at all.
NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private (RFC 1918), as the next but two and 192.168
        "100.64.0.0/10",  # between providers and their customers (RFC 6598)
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local; clouds keep their machines' secrets there
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocols
        "192.0.2.0/24",  # documentation, as 198.51.100 and 203.0.113
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "2001::/23",  # protocols, Teredo among them
        "2001:db8::/32",  # documentation, as 3fff
        "2002::/16",  # 6to4, which has an IPv4 address within
        "3fff::/20",
    )
)
PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")


class Tls(enum.Enum):
    """What is asked of the other side's TLS."""

    VERIFIED = "a certificate that the system's CAs vouch for"
    UNVERIFIED = "TLS with any certificate"
    OPTIONAL = "TLS if it is offered"


class Host(NamedTuple):
    """A host that takes mail: the name its certificate must have, where it is, its TLS."""

    name: str
    addresses: tuple[str, ...]
    tls: Tls


class NoHost(Exception):
    """No host can be asked; `answer` says what becomes of the recipients."""

    def __init__(self, code: int, text: str):
        super().__init__(text)
        self.answer = Answer(code, text)


def system_resolver() -> dns.asyncresolver.Resolver:
    """Return a resolver that asks what /etc/resolv.conf names: the relay's own unbound."""
    resolver = dns.asyncresolver.Resolver()
    # RFC 9715: answers that fit a packet everywhere; dnspython asks by TCP for longer ones.
    resolver.use_edns(0, 0, 1232)
    return resolver


def is_local_address(address: str) -> bool:
    """Tell whether an IP is this machine's own: only such a one can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True


def is_public(address: str) -> bool:
    """Tell whether an IP is one of the public Internet."""
    ip = ipaddress.ip_address(address)
    if ip.version == 6 and ip not in PUBLIC_IPV6:
        return False
    return not any(ip in network for network in NOT_PUBLIC)


def is_host_name(name: str) -> bool:
    """Tell whether a name, in lower case, is made of what host names are made of."""
    return len(name) <= MAX_NAME and HOST_NAME.fullmatch(name) is not None


def tls_for(domain: str) -> Tls:
    """Return what a destination domain's hosts must show (the relay contract, section 7)."""
    if domain.startswith(("_", "[")):
        return Tls.UNVERIFIED
    return Tls.OPTIONAL if domain in MAY_BE_PLAIN else Tls.VERIFIED


def literal_address(domain: str) -> str:
    """Return the IP of `[1.2.3.4]` or `[IPv6:2001:db8::1]` (RFC 5321, 4.1.3)."""
    literal = domain[1:-1]
    try:
        if literal.lower().startswith("ipv6:"):
            return str(ipaddress.IPv6Address(literal[5:]))
        return str(ipaddress.IPv4Address(literal))
    except ValueError:
        raise NoHost(550, f"5.1.2 {domain} is no valid address literal") from None


class Destinations:
    """Finds the hosts of a domain, best first.

    own_names: names of this relay; mail whose best MX is one of them would go round for ever.
    use_ipv6: False where the operator disabled IPv6.
    private_networks: those that are not public and may be destinations all the same.
    resolver, is_ours: replaced by tests.
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
        """Give the domain's hosts in the order in which they are to be asked.

        domain: what stands after the recipient's @, in lower case. A host is looked up when its
        turn comes, so that a dead backup MX costs the first one no time.
        Raises NoHost, when not a single one was found.
        """
        reason = None
        found = False
        for name in await self._names(domain):
            try:
                addresses = await self.addresses(name)
            except NoHost as error:
                # What may be there later outweighs what is not there.
                if reason is None or error.answer.temporary:
                    reason = error
                continue
            if name in self._own_names or any(self._is_ours(a) for a in addresses):
                # RFC 5321, 5.1: neither ourselves nor anything less preferred than ourselves.
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
        """Return the domain's MX names by preference, or what stands for them."""
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
        # Among equals we ourselves come first, so that what is no better than us is cut off.
        found.sort(key=lambda host: (host[0], host[1] not in self._own_names))
        names = [name for _, name in found if is_host_name(name)]
        if not names:
            raise NoHost(550, f"5.4.4 no MX of {domain} is a host name")
        return names[:MAX_HOSTS]

    async def addresses(self, name: str) -> tuple[str, ...]:
        """Return the addresses of a host, IPv4 first: it is what works wherever one works.

        Raises NoHost, permanent when it has none, temporary when DNS did not say.
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
        """Return the records of one name and type; an empty list if it has none of the type."""
        try:
            absolute = dns.name.from_text(name)
            answer = await self._resolver.resolve(absolute, rdtype, lifetime=DNS_SECONDS)
        except dns.resolver.NoAnswer:
            return []
        except dns.resolver.NXDOMAIN:
            raise NoHost(550, f"5.1.2 {name} does not exist") from None
        except (dns.name.EmptyLabel, dns.name.LabelTooLong, dns.name.NameTooLong, UnicodeError):
            raise NoHost(550, f"5.1.2 {name} is no domain name") from None
        except (dns.exception.DNSException, OSError) as error:
            kind = type(error).__name__
            raise NoHost(451, f"4.4.3 DNS did not answer for {name} {rdtype} ({kind})") from None
        return list(answer)


def is_ip(name: str) -> bool:
    """Tell whether a host's name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
