"""Which hosts take mail for a domain (RFC 5321, 5.1): MX, implicit MX, address literals."""

import asyncio
import enum
import ipaddress
import random
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
    resolver, is_ours: replaced by tests.
    """

    def __init__(
        self,
        own_names: Iterable[str],
        use_ipv6: bool,
        resolver: dns.asyncresolver.Resolver | None = None,
        is_ours: Callable[[str], bool] = is_local_address,
    ):
        self._own_names = frozenset(name.lower() for name in own_names)
        self._types = ("A", "AAAA") if use_ipv6 else ("A",)
        self._resolver = resolver or system_resolver()
        self._is_ours = is_ours

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
            found = True
            yield Host(name, addresses, tls_for(domain))
        if not found:
            raise reason

    async def _names(self, domain: str) -> list[str]:
        """Return the domain's MX names by preference, or what stands for them."""
        if domain.startswith("["):
            return [literal_address(domain)]
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
        return [name for _, name in found[:MAX_HOSTS]]

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
