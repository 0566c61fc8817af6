"""Questions to the authoritative servers of a zone."""

import collections

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver

from chatmaild.common.errors import OperatorError
from chatmaild.dns.rdata import format_value
from chatmaild.dns.records import TTL

RESOLV_CONF = "/etc/resolv.conf"
# Seconds for one question to one IP address. A name server that needs longer counts as silent.
QUESTION_TIMEOUT = 5
# Aliases are followed (RFC 1034 section 3.6.2), but no chain longer than resolvers follow.
MAX_ALIASES = 8
# The number of zone cuts that one question may cross below a known zone.
MAX_REFERRALS = 8
# values: the resource data. alias: the name to which a CNAME leads instead, or None.
Answer = collections.namedtuple("Answer", "values ttl alias")


class NoAnswer(Exception):
    """A name server gave no usable answer. The text says what the server did."""


class View:
    """The answers of the authoritative servers. A server that was silent is not asked again."""

    def __init__(self):
        try:
            self.resolver = dns.resolver.Resolver(RESOLV_CONF)
        except dns.exception.DNSException as error:
            raise OperatorError(f"{RESOLV_CONF} names no resolver: {error}") from error
        self.resolver.lifetime = QUESTION_TIMEOUT * 2
        self.zones = {}  # {zone: {name of server: IP addresses}}
        self.silent = {}  # {name of server: what the server did instead of answering}
        self.known = {}  # {(name, type): answers}

    def zone(self, name):
        """Return the deepest known zone that contains a name. The resolver finds the first zone."""
        known = [zone for zone in self.zones if name.is_subdomain(zone)]
        if known:
            return max(known, key=len)
        try:
            zone = dns.resolver.zone_for_name(name, resolver=self.resolver)
            servers = [rdata.target for rdata in self.resolver.resolve(zone, "NS")]
        except dns.exception.DNSException as error:
            raise OperatorError(
                f"the zone of {name} cannot be found: {describe_error(error)}. Is the domain "
                "registered and delegated, do its name servers run, does the resolver of this "
                "machine work?"
            ) from error
        self.zones[zone] = {server: self.hosts(server) for server in servers}
        return zone

    def hosts(self, server):
        """Return the IP addresses of a name server, which the resolver finds."""
        found = []
        for rdtype in ("A", "AAAA"):
            try:
                found += [rdata.address for rdata in self.resolver.resolve(server, rdtype)]
            except dns.exception.DNSException:
                continue
        return found

    def answers(self, name, rdtype):
        """Return the answer of each authoritative server: {server: Answer, or an error text}."""
        if (name, rdtype) not in self.known:
            self.known[name, rdtype] = self.ask_all(name, rdtype)
        return self.known[name, rdtype]

    def ask_all(self, name, rdtype):
        """Ask each server of the zone that contains a name. Delegations are followed."""
        zone = self.zone(name)
        for _ in range(MAX_REFERRALS):
            answers, cut = {}, None
            for server, hosts in self.zones[zone].items():
                answers[server], cut = self.ask(server, hosts, name, rdtype, zone)
                if cut:
                    break
            if not cut:
                return answers
            zone = self.descend(cut)
        raise OperatorError(f"{name}: more than {MAX_REFERRALS} delegations in a row")

    def ask(self, server, hosts, name, rdtype, zone):
        """Return (Answer or error text, None), or (None, response) for a referral."""
        if server in self.silent:
            return self.silent[server], None
        problem = "has no address"
        for host in hosts:
            query = dns.message.make_query(name, rdtype, use_edns=0, payload=1232)
            query.flags &= ~dns.flags.RD
            try:
                response, _ = dns.query.udp_with_fallback(query, host, QUESTION_TIMEOUT)
            except (dns.exception.DNSException, OSError) as error:
                problem = f"does not answer at {host}: {describe_error(error)}"
                continue
            if is_referral(response, name, zone):
                return None, response
            try:
                return read_answer(response, name, rdtype), None
            except NoAnswer as error:
                problem = str(error)
        self.silent[server] = problem
        return problem, None

    def descend(self, response):
        """Note the servers of a deeper zone, which a referral names; return the zone."""
        cut = next(rrset for rrset in response.authority if rrset.rdtype == dns.rdatatype.NS)
        glue = {}
        for rrset in response.additional:
            if rrset.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
                glue.setdefault(rrset.name, []).extend(rdata.address for rdata in rrset)
        self.zones[cut.name] = {
            rdata.target: glue.get(rdata.target) or self.hosts(rdata.target) for rdata in cut
        }
        return cut.name

    def first(self, name, rdtype):
        """Return the Answer of the first server that gives one. Raises OperatorError."""
        answers = self.answers(name, rdtype)
        for answer in answers.values():
            if isinstance(answer, Answer):
                return answer
        raise OperatorError(describe_silence(name, self.zone(name), answers))

    def followed(self, answer, rdtype):
        """Return the data of an answer, or the data at the end of its aliases."""
        for _ in range(MAX_ALIASES):
            if not answer.alias:
                return list(answer.values)
            try:
                answer = self.first(answer.alias, rdtype)
            except OperatorError:
                break  # A broken alias must not keep other records from being checked.
        return []

    def addresses(self, name):
        """Return the IP addresses of a name as texts. Aliases are followed."""
        alias = Answer((), TTL, name)
        return [format_value(r) for rdtype in ("A", "AAAA") for r in self.followed(alias, rdtype)]


def describe_error(error):
    """Return an error as one short text. dnspython has no text for a time-out."""
    if isinstance(error, dns.exception.Timeout):
        return "time-out"
    return str(error) or type(error).__name__


def describe_silence(name, zone, answers):
    """Return the error text for a zone whose servers do not answer."""
    found = "; ".join(f"{server} {problem}" for server, problem in answers.items())
    return (
        f"no authoritative server of zone {zone} answers for {name}: {found or 'it has none'}. "
        "See whether these servers run and serve the zone"
    )


def is_referral(response, name, zone):
    """Return whether a response refers to the servers of a deeper zone."""
    if response.flags & dns.flags.AA or response.rcode() != dns.rcode.NOERROR:
        return False
    return any(
        rrset.rdtype == dns.rdatatype.NS
        and name.is_subdomain(rrset.name)
        and len(rrset.name) > len(zone)
        for rrset in response.authority
    )


def read_answer(response, name, rdtype):
    """Return a response as an Answer. Raises NoAnswer without the authority flag (AA)."""
    rcode = response.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise NoAnswer(f"answers {dns.rcode.to_text(rcode)}")
    if not response.flags & dns.flags.AA:
        raise NoAnswer("answers without authority: it does not serve the zone")
    wanted = dns.rdatatype.from_text(rdtype)
    rrset = response.get_rrset(response.answer, name, dns.rdataclass.IN, wanted)
    if rrset:
        return Answer(tuple(rrset), rrset.ttl, None)
    alias = response.get_rrset(response.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
    return Answer((), alias.ttl if alias else TTL, alias[0].target if alias else None)
