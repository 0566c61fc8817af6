"""Questions to the primary server and updates of its zone (RFC 2136), signed with TSIG."""

import base64
import collections
import socket

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update

from chatmaild.common.errors import OperatorError
from chatmaild.common.tsig_key import read_tsig_key
from chatmaild.dns import authoritative
from chatmaild.dns.authoritative import (
    NoAnswer,
    describe_error,
    is_referral,
    read_answer,
)

# Seconds for one update. The primary may have to sign the zone in this time.
UPDATE_TIMEOUT = 30
# The server that takes updates. shown: its name in messages. key: a dns.tsig.Key.
Primary = collections.namedtuple("Primary", "shown host port key")


def load_primary(given):
    """Return the server that takes updates, from the settings `dns`."""
    host, _, port = given["server"].rpartition(":")
    found = read_tsig_key(given["tsig_key_file"])
    key = dns.tsig.Key(found.name, base64.b64decode(found.secret), found.algorithm)
    return Primary(given["server"], host.strip("[]"), int(port), key)


def find_zone(primary, domain):
    """Return the zone of the domain. The primary is asked for the domain, then for each parent."""
    name, rcodes = domain, []
    while name != dns.name.root:
        response = _exchange(
            primary, _make_query(primary, name, "SOA"), authoritative.QUESTION_TIMEOUT
        )
        for rrset in (*response.answer, *response.authority):
            is_soa = rrset.rdtype == dns.rdatatype.SOA and domain.is_subdomain(rrset.name)
            if is_soa and response.flags & dns.flags.AA:
                return rrset.name
        rcodes.append(dns.rcode.to_text(response.rcode()))
        name = name.parent()
    raise OperatorError(
        f"{primary.shown} serves no zone that holds {domain} (it answers {rcodes[0]}): create the "
        "zone there, or correct chatmail:dns:server"
    )


def _make_query(primary, name, rdtype):
    query = dns.message.make_query(name, rdtype)
    query.flags &= ~dns.flags.RD
    # Questions are signed too: a hidden primary may answer only signed ones, and BIND may choose
    # the view by the key.
    query.use_tsig(primary.key)
    return query


def ask(primary, zone, name, rdtype):
    """Return the primary's Answer for a name and a type. Raises OperatorError."""
    response = _exchange(
        primary, _make_query(primary, name, rdtype), authoritative.QUESTION_TIMEOUT
    )
    if is_referral(response, name, zone):
        raise OperatorError(
            f"{name} is delegated away from zone {zone}: publish it there, or remove the delegation"
        )
    try:
        return read_answer(response, name, rdtype)
    except NoAnswer as error:
        raise OperatorError(
            f"{primary.shown}, asked for {name} {rdtype}, {error}: does it serve zone {zone}, and "
            f"may key {primary.key.name} ask it?"
        ) from error


def _exchange(primary, message, timeout):
    """Send a signed message to the primary by TCP; return its signed response."""
    key = primary.key.name
    try:
        response = _send(primary, message, timeout)
    except dns.tsig.PeerBadKey as error:
        # Knot gives this answer also when it knows the key, but no acl of the zone allows the key.
        text = f"{primary.shown} does not know TSIG key {key}, or not for this zone: allow it there"
        raise OperatorError(text) from error
    except dns.tsig.PeerBadTime as error:
        text = f"the clocks of {primary.shown} and this machine differ: see `timedatectl`"
        raise OperatorError(text) from error
    except (dns.tsig.PeerError, dns.tsig.BadSignature, dns.tsig.BadTime) as error:
        text = f"{primary.shown} has another secret or algorithm for TSIG key {key}: copy it again"
        raise OperatorError(text) from error
    except (dns.exception.DNSException, OSError) as error:
        raise OperatorError(
            f"{primary.shown} does not answer ({describe_error(error)}): see whether it runs and "
            "whether a firewall lets TCP through to it"
        ) from error
    if not response.had_tsig and response.rcode() == dns.rcode.NOERROR:
        raise OperatorError(f"{primary.shown} did not sign its answer: it may be forged")
    return response


def _send(primary, message, timeout):
    """Send a message to the first IP address of the primary that accepts a connection."""
    found = socket.getaddrinfo(primary.host, primary.port, type=socket.SOCK_STREAM)
    for number, (*_, address) in enumerate(found, 1):
        try:
            return dns.query.tcp(message, address[0], timeout, primary.port)
        except OSError:
            if number == len(found):
                raise
    raise AssertionError("getaddrinfo answers at least one address")


# The meaning of each refusal of an update (RFC 2136 sections 2.2 and 3), and what to do.
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


def send_update(primary, zone, plan):
    """Send the plan as one update. The primary does all of it, or none (RFC 2136 section 3.7)."""
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
        raise OperatorError(
            f"{primary.shown} refused the update of zone {zone} with key {primary.key.name}: "
            f"{rcode}. Nothing was changed; {REFUSALS.get(rcode, 'see the log of the primary')}"
        )
