"""The values of records as text, as dnspython's rdata, and as a zone file."""

import time

import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT

from chatmaild.dkim.key_records import CHUNK
from chatmaild.dns.records import TTL, list_records


def make_zone(settings, nameservers=None):
    """Return the records as the text of a zone file (RFC 1035 section 5).

    nameservers: a list of host names, or one text with commas. With name servers the text is a
        complete zone of the mail domain, with SOA and NS. Without them the text is the records
        that an operator adds to an existing zone.
    """
    names = nameservers.split(",") if isinstance(nameservers, str) else nameservers or []
    rows = [
        (each["name"], each["type"], make_rdata(each["type"], each["value"]).to_text())
        for each in list_records(settings)
    ]
    if names and rows:
        domain = f"{settings['mail_domain']}."
        hosts = [f"{name.strip().rstrip('.')}." for name in names]
        numbers = f"{int(time.time())} 86400 7200 3600000 {TTL}"
        soa = (domain, "SOA", f"{hosts[0]} hostmaster.{domain} {numbers}")
        rows = [soa, *((domain, "NS", host) for host in hosts), *rows]
    width = max((len(name) for name, _, _ in rows), default=0)
    return "".join(f"{name:<{width}} {TTL} IN {kind:<5} {data}\n" for name, kind, data in rows)


def make_rdata(rdtype, value):
    """Return a record's value as dnspython's rdata. A TXT value is split into chunks."""
    if rdtype == "TXT":
        octets = value.encode()
        chunks = [octets[at : at + CHUNK] for at in range(0, len(octets), CHUNK)]
        return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, chunks or [b""])
    return dns.rdata.from_text(dns.rdataclass.IN, rdtype, value)


def format_value(rdata):
    """Return rdata as a record's value. The strings of a TXT record are joined."""
    if rdata.rdtype == dns.rdatatype.TXT:
        return b"".join(rdata.strings).decode(errors="backslashreplace")
    return rdata.to_text()
