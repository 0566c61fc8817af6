"""Say what DNS must hold for this relay, compare it with what is there, and publish it.

Three parts: the records (from the settings and what the machine holds), the comparison (asks the
authoritative servers and goes by meaning, not by text) and the publication (RFC 2136 with TSIG, or
a function of the operator's). Needs dnspython in Salt's own Python, which `chatmail.dns` provides.
"""

import base64
import collections
import functools
import ipaddress
import json
import re
import socket
import sys
import time
import urllib.parse
from pathlib import Path

from salt.exceptions import CommandExecutionError, SaltInvocationError

# Where dnspython is missing, Salt's loader can import salt/utils/dns.py under its name; that one
# would stand in the way when the same run installs dnspython. Ours is a package and has a path.
if not hasattr(sys.modules.get("dns"), "__path__"):
    sys.modules.pop("dns", None)

try:
    import dns.exception
    import dns.flags
    import dns.message
    import dns.name
    import dns.query
    import dns.rcode
    import dns.rdata
    import dns.rdataclass
    import dns.rdatatype
    import dns.rdtypes.ANY.TXT
    import dns.resolver
    import dns.reversename
    import dns.tsig
    import dns.update

    HAS_DNSPYTHON = True
except ImportError:
    HAS_DNSPYTHON = False

__virtualname__ = "chatmail_dns"

RESOLV_CONF = "/etc/resolv.conf"
ACME_ACCOUNTS = Path("/etc/letsencrypt/accounts")
TTL = 3600
# RFC 1035 section 3.3: a character-string of a TXT record holds 255 bytes.
CHUNK = 255
# Seconds for one question to one address; a name server that needs longer is as good as down.
QUESTION_TIMEOUT = 5
# Seconds for one update, in which the primary may have to sign the zone.
UPDATE_TIMEOUT = 30
# RFC 1034 section 3.6.2 wants chains of aliases followed; this is as far as resolvers go.
MAX_ALIASES = 8
# Zone cuts below a known zone that one question may cross.
MAX_REFERRALS = 8

# The name under which a CA looks for itself in CAA records, by the host of its ACME directory.
CAA_ISSUERS = {
    "acme-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme-staging-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme.zerossl.com": "sectigo.com",
    "dv.acme-v02.api.pki.goog": "pki.goog",
    "api.buypass.com": "buypass.com",
}

# Addresses that nobody outside reaches. The documentation ranges, which ipaddress counts as private
# too, are not among them: test networks use them.
NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3"),
        *("::/127", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
]

WHY = {
    "A": "other relays and clients find the machine by it",
    "AAAA": "other relays and clients find the machine by it over IPv6",
    "MX": "other servers deliver mail to the host that it names",
    "mta-sts": "senders fetch the MTA-STS policy there (RFC 8461), and the certificate names it",
    "www": "people type it, and the certificate names it",
    "_mta-sts": "tells senders that a policy exists and when it changed (RFC 8461)",
    "dkim": "other relays refuse mail whose DKIM signature they cannot verify",
    "spf": "some servers take mail without SPF for spam",
    "_dmarc": "others shall refuse mail that claims to be from here and is not signed",
    "caa": "only this CA account may get a certificate for the domain (RFC 8657)",
    "_adsp": "old servers shall drop unsigned mail that claims to be from here",
    "SRV": "clients find ports by it (RFC 6186)",
    "unused address": "the machine has no such address, so clients and servers wait in vain",
    "withdrawn": "the DKIM key was retired long ago",
    "test domain": "a test domain has a self-signed certificate, so a policy would stop mail",
}

# One answer: resource data, TTL, the alias (a name or None) that stands in its place.
Answer = collections.namedtuple("Answer", "values ttl alias")
# What the zone must become: rdata before and after of one name and type.
Change = collections.namedtuple("Change", "name rdtype ttl old new")
# The server that takes updates. key is a dns.tsig.Key.
Primary = collections.namedtuple("Primary", "shown host port key")


class _NoAnswer(Exception):
    """A name server gave no usable answer; the text says what it did instead."""


def __virtual__():
    if not HAS_DNSPYTHON:
        return False, (
            "chatmail_dns: the Python package dnspython is not in Salt's own Python; "
            "`state.apply chatmail.dns` puts it there"
        )
    return __virtualname__


def _settings():
    return __salt__["chatmail_relay.settings"]()


# The records.


def records():
    """Return every record that DNS should hold for this relay.

    Returns a list of {"name", "type", "ttl" in seconds, "value", "need", "why"}. Names end with a
    dot; a TXT value is one unsplit text; need is required or recommended. The list is empty for a
    relay that is a bare IP address. Raises CommandExecutionError when no public address is known.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.records
    """
    relay = _settings()
    if relay["form"] == "ip":
        return []
    domain = f"{relay['mail_domain']}."
    found = [
        _record(domain, "AAAA" if ":" in address else "A", address) for address in _addresses(relay)
    ]
    found.append(_record(domain, "MX", f"10 {domain}"))
    found.append(_record(f"www.{domain}", "CNAME", domain, "www"))
    if relay["mta_sts_id"]:
        policy = f"v=STSv1; id={relay['mta_sts_id']}"
        found.append(_record(f"mta-sts.{domain}", "CNAME", domain, "mta-sts"))
        found.append(_record(f"_mta-sts.{domain}", "TXT", policy, "_mta-sts"))
    found += [
        record | {"need": "required", "why": WHY["dkim"]}
        for record in __salt__["chatmail_dkim.records"]()
    ]
    return found + _recommended(relay, domain)


def _record(name, rdtype, value, why=None, need="required"):
    return {
        "name": name,
        "type": rdtype,
        "ttl": TTL,
        "value": value,
        "need": need,
        "why": WHY[why or rdtype],
    }


def _recommended(relay, domain):
    """Return the records without which a relay works, but worse."""
    rows = [
        (domain, "TXT", "v=spf1 a ~all", "spf"),
        (f"_dmarc.{domain}", "TXT", "v=DMARC1;p=reject;adkim=s;aspf=s", "_dmarc"),
        (f"_adsp._domainkey.{domain}", "TXT", "dkim=discardable", "_adsp"),
        (f"_submission._tcp.{domain}", "SRV", f"0 1 587 {domain}", "SRV"),
        (f"_submissions._tcp.{domain}", "SRV", f"0 1 465 {domain}", "SRV"),
        (f"_imap._tcp.{domain}", "SRV", f"0 1 143 {domain}", "SRV"),
        (f"_imaps._tcp.{domain}", "SRV", f"0 1 993 {domain}", "SRV"),
    ]
    issue = _caa(relay)
    if issue:
        rows.append((domain, "CAA", issue, "caa"))
    return [_record(*row, need="recommended") for row in rows]


def _addresses(relay):
    """Return the public addresses of the machine, IPv4 first."""
    given = relay["dns"]["addresses"]
    found = given or __salt__["network.ip_addrs"]() + __salt__["network.ip_addrs6"]()
    parsed = {ipaddress.ip_address(address) for address in found}
    if not given:
        parsed = {a for a in parsed if not any(a in network for network in NOT_PUBLIC)}
    if relay["disable_ipv6"]:
        parsed = {address for address in parsed if address.version == 4}
    if not parsed:
        raise CommandExecutionError(
            f"no public IP address found on this machine (it has {', '.join(found) or 'none'}): "
            "set chatmail:dns:addresses in pillar to those that reach it"
        )
    return [str(a) for a in sorted(parsed, key=lambda address: (address.version, address))]


def _caa(relay):
    """Return the CAA value that names our ACME account, None without one (RFC 8657 section 3)."""
    if relay["tls_mode"] != "acme":
        return None
    directory = urllib.parse.urlsplit(relay["acme_directory"])
    issuer = relay["dns"]["caa_issuer"] or CAA_ISSUERS.get(directory.hostname)
    # certbot: accounts/<host of the directory>/<path of the directory>/<account>/regr.json
    folder = ACME_ACCOUNTS / directory.netloc / directory.path.strip("/")
    accounts = sorted(folder.glob("*/regr.json"))
    if not issuer or not accounts:
        return None
    try:
        uri = json.loads(accounts[-1].read_text())["uri"]
    except (OSError, ValueError, KeyError) as error:
        raise CommandExecutionError(
            f"{accounts[-1]} names no ACME account ({error}): see `certbot show_account`"
        ) from error
    return f'0 issue "{issuer};accounturi={uri}"'


def zone(nameservers=None):
    """Return the records as zone-file text (RFC 1035 section 5), to put into a zone by hand.

    nameservers: list of host names, or one text with commas. With them the text is a whole zone
    for the mail domain, with SOA and NS; without them it is what belongs into an existing zone.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.zone
        salt-call chatmail_dns.zone nameservers=ns1.example.org,ns2.example.org
    """
    names = nameservers.split(",") if isinstance(nameservers, str) else nameservers or []
    rows = [(r["name"], r["type"], _rdata(r["type"], r["value"]).to_text()) for r in records()]
    if names and rows:
        domain = f"{_settings()['mail_domain']}."
        hosts = [f"{name.strip().rstrip('.')}." for name in names]
        numbers = f"{int(time.time())} 86400 7200 3600000 {TTL}"
        soa = (domain, "SOA", f"{hosts[0]} hostmaster.{domain} {numbers}")
        rows = [soa, *((domain, "NS", host) for host in hosts), *rows]
    width = max((len(name) for name, _, _ in rows), default=0)
    return "".join(f"{name:<{width}} {TTL} IN {kind:<5} {data}\n" for name, kind, data in rows)


def _rdata(rdtype, value):
    """Return a record's value as dnspython's rdata; a TXT value gets split into chunks."""
    if rdtype == "TXT":
        octets = value.encode()
        chunks = [octets[at : at + CHUNK] for at in range(0, len(octets), CHUNK)]
        return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, chunks or [b""])
    return dns.rdata.from_text(dns.rdataclass.IN, rdtype, value)


def _text(rdata):
    """Return rdata as a record's value: the strings of a TXT record joined."""
    if rdata.rdtype == dns.rdatatype.TXT:
        return b"".join(rdata.strings).decode(errors="backslashreplace")
    return rdata.to_text()


# Asking the authoritative servers.


class _View:
    """What the authoritative servers say; a server that is silent once is not asked again."""

    def __init__(self):
        try:
            self.resolver = dns.resolver.Resolver(RESOLV_CONF)
        except dns.exception.DNSException as error:
            raise CommandExecutionError(f"{RESOLV_CONF} names no resolver: {error}") from error
        self.resolver.lifetime = QUESTION_TIMEOUT * 2
        self.zones = {}  # zone: {server: addresses}, servers as names
        self.silent = {}  # server: what it did instead of answering
        self.known = {}  # (name, type): answers

    def zone(self, name):
        """Return the deepest zone known to hold a name; ask the resolver for the first one."""
        known = [zone for zone in self.zones if name.is_subdomain(zone)]
        if known:
            return max(known, key=len)
        try:
            zone = dns.resolver.zone_for_name(name, resolver=self.resolver)
            servers = [rdata.target for rdata in self.resolver.resolve(zone, "NS")]
        except dns.exception.DNSException as error:
            raise CommandExecutionError(
                f"the zone of {name} cannot be found: {_brief(error)}. Is the domain registered "
                "and delegated, do its name servers run, does the resolver of this machine work?"
            ) from error
        self.zones[zone] = {server: self.hosts(server) for server in servers}
        return zone

    def hosts(self, server):
        """Return the IP addresses of a name server, by the resolver."""
        found = []
        for rdtype in ("A", "AAAA"):
            try:
                found += [rdata.address for rdata in self.resolver.resolve(server, rdtype)]
            except dns.exception.DNSException:
                continue
        return found

    def answers(self, name, rdtype):
        """Return {server: Answer, or the text of what went wrong}, of each authoritative server."""
        if (name, rdtype) not in self.known:
            self.known[name, rdtype] = self.ask_all(name, rdtype)
        return self.known[name, rdtype]

    def ask_all(self, name, rdtype):
        """Ask each server of the zone that holds a name, following delegation."""
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
        raise CommandExecutionError(f"{name}: more than {MAX_REFERRALS} delegations in a row")

    def ask(self, server, hosts, name, rdtype, zone):
        """Return (Answer or text, None), or (None, response) for a referral to a deeper zone."""
        if server in self.silent:
            return self.silent[server], None
        problem = "has no address"
        for host in hosts:
            query = dns.message.make_query(name, rdtype, use_edns=0, payload=1232)
            query.flags &= ~dns.flags.RD
            try:
                response, _ = dns.query.udp_with_fallback(query, host, QUESTION_TIMEOUT)
            except (dns.exception.DNSException, OSError) as error:
                problem = f"does not answer at {host}: {_brief(error)}"
                continue
            if _referral(response, name, zone):
                return None, response
            try:
                return _answer(response, name, rdtype), None
            except _NoAnswer as error:
                problem = str(error)
        self.silent[server] = problem
        return problem, None

    def descend(self, response):
        """Learn the servers of a deeper zone from a referral; return the zone."""
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
        """Return what the first server that answers says."""
        answers = self.answers(name, rdtype)
        for answer in answers.values():
            if isinstance(answer, Answer):
                return answer
        raise CommandExecutionError(_nobody(name, self.zone(name), answers))

    def followed(self, answer, rdtype):
        """Return the data that an answer leads to: its own, or that behind its alias."""
        for _ in range(MAX_ALIASES):
            if not answer.alias:
                return list(answer.values)
            try:
                answer = self.first(answer.alias, rdtype)
            except CommandExecutionError:
                break  # it leads nowhere, which is no reason to say nothing of other records
        return []

    def addresses(self, name):
        """Return the IP addresses of a name, as texts, aliases followed."""
        alias = Answer((), TTL, name)
        return [_text(r) for rdtype in ("A", "AAAA") for r in self.followed(alias, rdtype)]


def _brief(error):
    """Return an error as one short text; a time-out has no text of its own."""
    if isinstance(error, dns.exception.Timeout):
        return "time-out"
    return str(error) or type(error).__name__


def _nobody(name, zone, answers):
    told = "; ".join(f"{server} {problem}" for server, problem in answers.items())
    return (
        f"no authoritative server of zone {zone} answers for {name}: {told or 'it has none'}. "
        "See whether these servers run and serve the zone"
    )


def _referral(response, name, zone):
    """Tell whether a response sends us to the servers of a zone below."""
    if response.flags & dns.flags.AA or response.rcode() != dns.rcode.NOERROR:
        return False
    return any(
        rrset.rdtype == dns.rdatatype.NS
        and name.is_subdomain(rrset.name)
        and len(rrset.name) > len(zone)
        for rrset in response.authority
    )


def _answer(response, name, rdtype):
    """Return a response as an Answer; raise _NoAnswer for one that is no authority's."""
    rcode = response.rcode()
    if rcode not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise _NoAnswer(f"answers {dns.rcode.to_text(rcode)}")
    if not response.flags & dns.flags.AA:
        raise _NoAnswer("answers without authority: it does not serve the zone")
    wanted = dns.rdatatype.from_text(rdtype)
    rrset = response.get_rrset(response.answer, name, dns.rdataclass.IN, wanted)
    if rrset:
        return Answer(tuple(rrset), rrset.ttl, None)
    alias = response.get_rrset(response.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
    return Answer((), alias.ttl if alias else TTL, alias[0].target if alias else None)


# Comparing by meaning.


def _tags(value):
    """Return a list of tags such as `v=DKIM1; k=rsa` as a dictionary, names in lower case."""
    pairs = (part.partition("=") for part in value.split(";") if part.strip())
    return {name.strip().lower(): "".join(text.split()) for name, _, text in pairs}


def _same_dkim(wanted, found):
    """Compare key records (RFC 6376 section 3.6.1); a flag of the operator's own may stay."""
    wanted, found = _tags(wanted), _tags(found)
    return (
        found.get("v", "DKIM1") == "DKIM1"
        and found.get("k", "rsa").lower() == wanted["k"]
        and found.get("p") == wanted["p"]
        and not {"*", "email"}.isdisjoint(found.get("s", "*").lower().split(":"))
        and "sha256" in found.get("h", "sha256").lower().split(":")
        # t=y asks others to treat our mail as unsigned.
        and "y" not in found.get("t", "").lower().split(":")
    )


def _same_dmarc(wanted, found):
    """Compare DMARC policies (RFC 7489 section 6.3); where reports go is the operator's."""
    wanted, found = _tags(wanted), _tags(found)
    strict = all(found.get(tag, "").lower() == wanted[tag] for tag in ("p", "adkim", "aspf"))
    return strict and found.get("pct", "100") == "100"


def _same_spf(_wanted, found):
    """Tell whether an SPF policy passes the domain's own address (RFC 7208 section 4.6)."""
    for term in found.lower().split()[1:]:
        if term.lstrip("+") in ("a", "mx"):
            return True
        if term.lstrip("+-~?") == "all":
            break
    return False


def _same_tags(wanted, found):
    return _tags(wanted) == _tags(found)


def _same_mx(wanted, found):
    """Compare MX data by host: where there is only one, its preference means nothing."""
    return wanted.lower().split()[1:] == found.lower().split()[1:]


def _same_srv(wanted, found):
    """Compare SRV data by port and host, for the same reason without priority and weight."""
    return wanted.lower().split()[2:] == found.lower().split()[2:]


def _same_caa(wanted, found):
    """Compare CAA properties (RFC 8659 section 4.2): issuer and parameters, in any order."""
    return _caa_parts(wanted) == _caa_parts(found)


def _caa_parts(value):
    _flags, tag, text = value.split(None, 2)
    issuer, *parameters = [part.strip() for part in text.strip('"').split(";")]
    return tag.lower(), issuer.lower(), {part.replace(" ", "") for part in parameters if part}


def _same_text(wanted, found):
    return wanted.lower() == found.lower()


# How ours begin among the TXT records of a name, and what compares them. Others, such as the proof
# of ownership that some service wants in a TXT record of the domain, are none of our business.
TXT_COMPARED = {
    "v=spf1": _same_spf,
    "v=dmarc1": _same_dmarc,
    "v=stsv1": _same_tags,
    "v=dkim1": _same_dkim,
    "dkim=": _same_tags,
}
COMPARED = {"MX": _same_mx, "SRV": _same_srv, "CAA": _same_caa}


def _kind(value):
    """Return how a TXT record of one of our kinds begins, None for another one."""
    start = "".join(value.lower().split())
    return next((kind for kind in TXT_COMPARED if start.startswith(kind)), None)


def _same(rdtype, wanted, found):
    """Tell whether two values of one type mean the same."""
    if rdtype == "TXT":
        return TXT_COMPARED[_kind(wanted)](wanted, found)
    return COMPARED.get(rdtype, _same_text)(wanted, found)


def _ours(rdtype, wanted, found):
    """Tell whether a found value stands in the place of the wanted ones, right or wrong."""
    if rdtype == "TXT" and _kind(wanted[0]) not in ("v=dkim1", "dkim="):
        return _kind(found) == _kind(wanted[0])
    if rdtype == "CAA":
        return _caa_parts(found)[0] == "issue"
    return True


def _judge(rdtype, wanted, ours):
    """Return ok, missing or wrong for the values found of one name and type, others' left out."""
    if not ours:
        return "missing"
    if rdtype == "TXT" and len(ours) != len(wanted):
        return "wrong"  # two policies are as good as none (RFC 7208 4.5, RFC 7489 6.6.3)
    complete = all(any(_same(rdtype, each, value) for value in ours) for each in wanted)
    exact = all(any(_same(rdtype, each, value) for each in wanted) for value in ours)
    return "ok" if complete and exact else "wrong"


# One name and type, and the values that it must have; none: it must not be there. alone: records
# of no other type belong to the name, so an alias may stand in their place (RFC 1034 3.6.2).
Group = collections.namedtuple("Group", "name type wanted need why alone")


def _groups(wanted, names):
    """Return records by name and type, and after them what must not be there.

    wanted: what `records` returns. names: only these of its names; None: all.
    """
    grouped = {}
    for record in wanted:
        grouped.setdefault((record["name"], record["type"]), []).append(record)
    owners = [name for name, _ in grouped]
    groups = [
        Group(*key, [r["value"] for r in found], found[0]["need"], found[0]["why"], alone)
        for key, found in grouped.items()
        for alone in [owners.count(key[0]) == 1]
    ]
    if groups:
        groups += _unwanted(f"{_settings()['mail_domain']}.", grouped)
    unknown = set(names or ()) - {group.name for group in groups}
    if unknown:
        raise SaltInvocationError(
            f"the relay has no record of the name {', '.join(sorted(unknown))}: see "
            "`chatmail_dns.records`"
        )
    return [group for group in groups if names is None or group.name in names]


def _unwanted(domain, grouped):
    rows = [(domain, kind, "unused address") for kind in ("A", "AAAA")]
    rows += [
        (f"mta-sts.{domain}", "CNAME", "test domain"),
        (f"_mta-sts.{domain}", "TXT", "test domain"),
    ]
    rows += [(name, "TXT", "withdrawn") for name in __salt__["chatmail_dkim.withdrawn"]()]
    return [
        Group(name, kind, [], "not needed", WHY[why], name != domain)
        for name, kind, why in rows
        if (name, kind) not in grouped
    ]


def _evaluate(group, ask, view, addresses):
    """Return (status, found values) of a group.

    ask: function of a name and a type that returns the Answer of the one server in question.
    addresses: those that the domain should have.
    """
    name = dns.name.from_text(group.name)
    answer = ask(name, group.type)
    if answer.alias and not group.alone:
        return "wrong", [f"CNAME {answer.alias}"]
    if group.type == "CNAME" and group.wanted:
        return _evaluate_alias(group, answer, lambda rdtype: ask(name, rdtype), view, addresses)
    found = [_text(rdata) for rdata in view.followed(answer, group.type)]
    if not group.wanted:
        return "wrong" if found and group.type in ("A", "AAAA") else "not needed", found
    found = [value for value in found if _ours(group.type, group.wanted, value)]
    status = _judge(group.type, group.wanted, found)
    return status, [f"CNAME {answer.alias}"] if answer.alias and not found else found


def _evaluate_alias(group, answer, ask, view, addresses):
    """Judge a name that shall lead to this machine, by whatever records it does."""
    if answer.values:
        target = answer.values[0].target
        if target == dns.name.from_text(group.wanted[0]):
            return "ok", [_text(answer.values[0])]
        found, reached = [f"CNAME {target}"], view.addresses(target)
    else:
        found = [_text(rdata) for rdtype in ("A", "AAAA") for rdata in ask(rdtype).values]
        reached = found
    if not found:
        return "missing", []
    return "ok" if set(reached) == set(addresses) else "wrong", found


def check(names=None):
    """Compare what the authoritative servers answer with what they should, record by record.

    names: list of names, or one text with commas, as `records` writes them; by default all.
    Returns {"domain", "zone", "result", "servers", "records", "dnssec", "ptr"}: result is true when
    every required record is right; servers says for each what it did; each of the records is
    {"name", "type", "status", "need", "expected", "found", "why"} with the status ok, missing,
    wrong or not needed, and "servers" where only some of them answer otherwise. dnssec and ptr are
    for information. Raises CommandExecutionError when no authoritative server answers.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.check
        salt-call chatmail_dns.check names=www.chat.example.org. --out=json
    """
    domain = _settings()["mail_domain"]
    wanted = records()
    groups = _groups(wanted, _listed(names))
    if not groups:
        return _checked(domain, None, [], {}, "not needed", {})
    view, addresses = _View(), _addresses_in(wanted)
    entries = [_entry(group, view, addresses) for group in groups]
    zone = view.zone(dns.name.from_text(domain))
    servers = {
        str(server): view.silent.get(server, "answers")
        for servers in view.zones.values()
        for server in servers
    }
    pointers = {address: _pointer(view, address) for address in addresses}
    return _checked(domain, str(zone), entries, servers, _dnssec(view, domain), pointers)


def _listed(names):
    """Return names as `records` writes them, None for all."""
    given = names.split(",") if isinstance(names, str) else names
    return given and [f"{name.strip().lower().rstrip('.')}." for name in given]


def _checked(domain, zone, entries, servers, dnssec, ptr):
    bad = [entry for entry in entries if entry["status"] in ("missing", "wrong")]
    return {
        "domain": domain,
        "zone": zone,
        "result": not any(entry["need"] != "recommended" for entry in bad),
        "servers": servers,
        "records": entries,
        "dnssec": dnssec,
        "ptr": ptr,
    }


def _addresses_in(wanted):
    return [record["value"] for record in wanted if record["type"] in ("A", "AAAA")]


def _entry(group, view, addresses):
    """Return what `check` says about one group: the worst that any of the servers answers."""
    name = dns.name.from_text(group.name)
    answers = view.answers(name, group.type)
    verdicts = {}
    for server, answer in answers.items():
        if isinstance(answer, Answer):
            ask = functools.partial(_ask_one, view, server)
            verdicts[server] = _evaluate(group, ask, view, addresses)
    if not verdicts:
        raise CommandExecutionError(_nobody(name, view.zone(name), answers))
    statuses = {status for status, _ in verdicts.values()}
    worst = next(s for s in ("wrong", "missing", "ok", "not needed") if s in statuses)
    entry = {
        "name": group.name,
        "type": group.type,
        "status": worst,
        "need": group.need,
        "expected": group.wanted,
        "found": next(found for status, found in verdicts.values() if status == worst),
        "why": group.why,
    }
    if len(statuses) > 1:
        entry["servers"] = [str(server) for server in verdicts if verdicts[server][0] == worst]
    return entry


def _ask_one(view, server, name, rdtype):
    """Return one server's Answer; an empty one where it fell silent meanwhile."""
    answer = view.answers(name, rdtype)[server]
    return answer if isinstance(answer, Answer) else Answer((), TTL, None)


def _pointer(view, address):
    """Return the names that an address points back to; information, nobody refuses for it."""
    try:
        found = view.resolver.resolve(dns.reversename.from_address(address), "PTR")
    except dns.exception.DNSException:
        return []
    return [str(rdata.target) for rdata in found]


def _dnssec(view, domain):
    """Return whether the resolver of this machine could validate the domain."""
    view.resolver.use_edns(0, dns.flags.DO, 1232)
    view.resolver.flags = dns.flags.RD | dns.flags.AD
    try:
        response = view.resolver.resolve(f"{domain}.", "SOA", raise_on_no_answer=False).response
    except dns.exception.DNSException as error:
        return f"unknown: {_brief(error)}"
    return "validated" if response.flags & dns.flags.AD else "not signed, or not validated here"


def report():
    """Return the outcome of `check` as text for a terminal, what is wrong first.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.report
    """
    found = check()
    if not found["records"]:
        return f"{found['domain']} needs no DNS records."
    lines = [f"DNS of {found['domain']}, zone {found['zone']}"]
    lines += [f"  server {server}: {told}" for server, told in found["servers"].items()]
    order = ("wrong", "missing", "ok", "not needed")
    for entry in sorted(found["records"], key=lambda entry: order.index(entry["status"])):
        lines += _lines(entry)
    lines.append(f"DNSSEC: {found['dnssec']}")
    lines += [f"PTR of {a}: {', '.join(names) or 'none'}" for a, names in found["ptr"].items()]
    lines.append("All required records are right." if found["result"] else "DNS is not complete.")
    return "\n".join(lines)


def _lines(entry):
    """Return the lines of `report` about one record."""
    status, need = entry["status"], entry["need"]
    lines = [f"{status:<10} {entry['name']} {entry['type']}"]
    if status in ("wrong", "missing"):
        lines[0] += f" ({need})" if need == "recommended" else ""
        lines += [f"           expected: {value}" for value in entry["expected"] or ["nothing"]]
        lines += [f"           found:    {value}" for value in entry["found"]]
        if "servers" in entry:
            lines.append(f"           on:       {', '.join(entry['servers'])}")
        lines.append(f"           why:      {entry['why']}")
    return lines


# Publishing.


def changes(names=None):
    """Return what `publish` would change.

    names: list of names, or one text with commas, as `records` writes them; by default all.
    Returns a list of {"zone", "name", "type", "ttl", "old", "new"}: all values of a name and type
    before and after; those of others stay among them. Raises CommandExecutionError when pillar
    names no way to publish or the zone cannot be read.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.changes
    """
    zone, ask, _primary = _route()
    return [_shown(zone, change) for change in _plan(_listed(names), zone, ask)]


def publish(names=None):
    """Make DNS hold what it should: all changes in one step, or none.

    names: list of names, or one text with commas, as `records` writes them; by default all.
    Returns the changes made, as `changes` shows them. With `dns:server` in pillar they are one
    RFC 2136 update signed with the TSIG key of `dns:tsig_key_file`, whose prerequisites make the
    primary refuse it when the zone changed meanwhile. With `dns:hook` the Salt function named
    there gets the list. Raises CommandExecutionError when anything refuses.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.publish
    """
    zone, ask, primary = _route()
    plan = _plan(_listed(names), zone, ask)
    shown = [_shown(zone, change) for change in plan]
    if plan and primary:
        _update(primary, zone, plan)
        left = [f"{change.name} {change.rdtype}" for change in _plan(_listed(names), zone, ask)]
        if left:
            raise CommandExecutionError(
                f"{primary.shown} took the update and did not change {', '.join(left)}: see "
                "whether other records of these names are in the way (a CNAME stands alone)"
            )
    elif plan:
        _call_hook(shown)
    return shown


def _route():
    """Return (zone, ask, primary): where changes go, and who is asked for the present state.

    ask is a function as _evaluate wants it. primary is None where a hook publishes.
    """
    relay = _settings()
    given, domain = relay["dns"], dns.name.from_text(relay["mail_domain"])
    if given["server"]:
        primary = _primary(given)
        zone = given["zone"] and dns.name.from_text(given["zone"])
        zone = zone or _primary_zone(primary, domain)
        return zone, lambda name, rdtype: _ask_primary(primary, zone, name, rdtype), primary
    if given["hook"]:
        view = _View()
        zone = given["zone"] and dns.name.from_text(given["zone"])
        return zone or view.zone(domain), view.first, None
    raise CommandExecutionError(
        "pillar names no way to publish: set chatmail:dns:server with dns:tsig_key_file, or "
        "dns:hook, or put by hand into the zone what `chatmail_dns.zone` prints"
    )


def _plan(names, zone, ask):
    """Return the Changes that the zone needs."""
    wanted, view, planned = records(), _View(), {}
    addresses = _addresses_in(wanted)
    for group in _groups(wanted, names):
        for change in _changes_of(group, ask, view, addresses):
            planned[change.name, change.rdtype] = change
    outside = [str(name) for name, _ in planned if not name.is_subdomain(zone)]
    if outside:
        raise CommandExecutionError(
            f"{', '.join(outside)} cannot be in zone {zone}: correct chatmail:dns:zone"
        )
    return list(planned.values())


def _changes_of(group, ask, view, addresses):
    """Return the Changes that one group needs, those that make room for it first."""
    status, _ = _evaluate(group, ask, view, addresses)
    name = dns.name.from_text(group.name)
    answer = ask(name, group.type)
    if status == "ok":
        return []
    needed = []
    if answer.alias:
        alias = _rdata("CNAME", answer.alias.to_text())
        needed.append(Change(name, "CNAME", answer.ttl, (alias,), ()))
    if group.type == "CNAME" and group.wanted:
        beside = {rdtype: ask(name, rdtype) for rdtype in ("A", "AAAA")}
        needed += [
            Change(name, rdtype, found.ttl, found.values, ())
            for rdtype, found in beside.items()
            if found.values
        ]
    others = tuple(
        rdata
        for rdata in answer.values
        if group.wanted and not _ours(group.type, group.wanted, _text(rdata))
    )
    new = others + tuple(_rdata(group.type, value) for value in group.wanted)
    if new or answer.values:
        ttl = answer.ttl if answer.values else TTL
        needed.append(Change(name, group.type, ttl, answer.values, new))
    return needed


def _shown(zone, change):
    return {
        "zone": str(zone),
        "name": str(change.name),
        "type": change.rdtype,
        "ttl": change.ttl,
        "old": sorted(map(_text, change.old)),
        "new": sorted(map(_text, change.new)),
    }


def _call_hook(shown):
    hook = _settings()["dns"]["hook"]
    if hook not in __salt__:
        raise CommandExecutionError(
            f"there is no Salt function {hook}: put its module into _modules and sync, or "
            "correct chatmail:dns:hook"
        )
    if __salt__[hook](shown) is False:
        raise CommandExecutionError(f"{hook} answered False: see the minion's log")


def _primary(given):
    """Return the server that takes updates, from the settings `dns`."""
    host, _, port = given["server"].rpartition(":")
    key = _tsig_key(Path(given["tsig_key_file"]))
    return Primary(given["server"], host.strip("[]"), int(port), key)


def _tsig_key(path):
    """Read a TSIG key in the form that tsig-keygen writes and BIND, nsupdate and others read."""
    try:
        text, mode = path.read_text(), path.stat().st_mode
    except (OSError, ValueError) as error:
        raise CommandExecutionError(f"the TSIG key cannot be read: {error}") from error
    if mode & 0o007:
        raise CommandExecutionError(f"everybody may read {path}: `chmod 0600 {path}` first")
    found = re.search(r'key\s+"?([^"\s{]+)"?\s*\{(.*?)\}', text, re.DOTALL)
    parts = dict(re.findall(r'(algorithm|secret)\s+"?([^";\s]+)"?\s*;', found[2] if found else ""))
    try:
        secret = base64.b64decode(parts["secret"], validate=True)
        return dns.tsig.Key(found[1], secret, parts["algorithm"].lower())
    except (KeyError, ValueError):
        pass  # without its cause: that text would have the secret in it
    raise CommandExecutionError(
        f"{path} holds no TSIG key: expected what tsig-keygen writes, "
        '`key "name" { algorithm hmac-sha256; secret "…"; };`'
    )


def _primary_zone(primary, domain):
    """Ask the primary for the zone that holds the domain, going up past an alias at its name."""
    name, rcodes = domain, []
    while name != dns.name.root:
        response = _exchange(primary, _query(primary, name, "SOA"), QUESTION_TIMEOUT)
        for rrset in (*response.answer, *response.authority):
            is_soa = rrset.rdtype == dns.rdatatype.SOA and domain.is_subdomain(rrset.name)
            if is_soa and response.flags & dns.flags.AA:
                return rrset.name
        rcodes.append(dns.rcode.to_text(response.rcode()))
        name = name.parent()
    raise CommandExecutionError(
        f"{primary.shown} serves no zone that holds {domain} (it answers {rcodes[0]}): create the "
        "zone there, or correct chatmail:dns:server"
    )


def _query(primary, name, rdtype):
    query = dns.message.make_query(name, rdtype)
    query.flags &= ~dns.flags.RD
    # Signed as well: a hidden primary may answer nobody else, and BIND chooses the view by it.
    query.use_tsig(primary.key)
    return query


def _ask_primary(primary, zone, name, rdtype):
    """Return the primary's Answer."""
    response = _exchange(primary, _query(primary, name, rdtype), QUESTION_TIMEOUT)
    if _referral(response, name, zone):
        raise CommandExecutionError(
            f"{name} is delegated away from zone {zone}: publish it there, or remove the delegation"
        )
    try:
        return _answer(response, name, rdtype)
    except _NoAnswer as error:
        raise CommandExecutionError(
            f"{primary.shown}, asked for {name} {rdtype}, {error}: does it serve zone {zone}, and "
            f"may key {primary.key.name} ask it?"
        ) from error


def _exchange(primary, message, timeout):
    """Send a signed message to the primary by TCP; return its response, signature checked."""
    key = primary.key.name
    try:
        response = _send(primary, message, timeout)
    except dns.tsig.PeerBadKey as error:
        # Knot says so of a key that it knows and that no acl of the zone allows, too.
        told = f"{primary.shown} does not know TSIG key {key}, or not for this zone: allow it there"
        raise CommandExecutionError(told) from error
    except dns.tsig.PeerBadTime as error:
        told = f"the clocks of {primary.shown} and this machine differ: see `timedatectl`"
        raise CommandExecutionError(told) from error
    except (dns.tsig.PeerError, dns.tsig.BadSignature, dns.tsig.BadTime) as error:
        told = f"{primary.shown} has another secret or algorithm for TSIG key {key}: copy it again"
        raise CommandExecutionError(told) from error
    except (dns.exception.DNSException, OSError) as error:
        raise CommandExecutionError(
            f"{primary.shown} does not answer ({_brief(error)}): see whether it runs and whether "
            "a firewall lets TCP through to it"
        ) from error
    if not response.had_tsig and response.rcode() == dns.rcode.NOERROR:
        raise CommandExecutionError(f"{primary.shown} did not sign its answer: it may be forged")
    return response


def _send(primary, message, timeout):
    """Exchange a message with the first of the primary's addresses that takes connections."""
    found = socket.getaddrinfo(primary.host, primary.port, type=socket.SOCK_STREAM)
    for number, (*_, address) in enumerate(found, 1):
        try:
            return dns.query.tcp(message, address[0], timeout, primary.port)
        except OSError:
            if number == len(found):
                raise
    raise AssertionError("getaddrinfo answers at least one address")


# What a refusal of an update means (RFC 2136 sections 2.2 and 3).
REFUSALS = {
    "YXDOMAIN": "the zone changed while this ran: run it again",
    "YXRRSET": "the zone changed while this ran: run it again",
    "NXRRSET": "the zone changed while this ran: run it again",
    "NXDOMAIN": "the zone changed while this ran: run it again",
    "REFUSED": "allow this key to update the zone (BIND: update-policy, Knot: acl)",
    "NOTAUTH": "it is not the primary of this zone: correct chatmail:dns:server or dns:zone",
    "NOTZONE": "a name lies outside the zone: correct chatmail:dns:zone",
    "NOTIMP": "it takes no updates at all: correct chatmail:dns:server or use dns:hook",
    "SERVFAIL": "see the log of the primary: its zone may be broken or not writable",
}


def _update(primary, zone, plan):
    """Send the plan as one update; the primary makes all of it, or none (RFC 2136 section 3.7)."""
    message = dns.update.UpdateMessage(zone)
    message.use_tsig(primary.key)
    for change in plan:
        if change.old:
            message.present(change.name, *change.old)
            message.delete(change.name, change.rdtype)
        else:
            message.absent(change.name, change.rdtype)
    for change in plan:
        if change.new:
            message.add(change.name, change.ttl, *change.new)
    rcode = dns.rcode.to_text(_exchange(primary, message, UPDATE_TIMEOUT).rcode())
    if rcode != "NOERROR":
        raise CommandExecutionError(
            f"{primary.shown} refused the update of zone {zone} with key {primary.key.name}: "
            f"{rcode}. Nothing was changed; {REFUSALS.get(rcode, 'see the log of the primary')}"
        )
