"""The comparison of the records in DNS with the records that the relay needs."""

import functools

import dns.exception
import dns.flags
import dns.name
import dns.reversename

from chatmaild.common.errors import OperatorError
from chatmaild.dns.authoritative import Answer, View, describe_error, describe_silence
from chatmaild.dns.comparison import evaluate, make_groups
from chatmaild.dns.records import TTL, list_records


def check(settings, names=None):
    """Compare the answers of the authoritative servers with the records that the relay needs.

    names: a list of names, or one text with commas, as `records` writes them; by default all.
    Returns {"domain", "zone", "result", "servers", "records", "dnssec", "ptr"}.
    result: true when every required record is right.
    servers: {server: "answers", or what the server did instead}.
    records: a list of {"name", "type", "status", "need", "expected", "found", "why"}. The status is
        ok, missing, wrong or not needed. When the servers disagree, the entry has a list "servers"
        too: those that gave this answer.
    dnssec, ptr: for information only.
    Raises OperatorError when no authoritative server answers.
    """
    domain = settings["mail_domain"]
    wanted = list_records(settings)
    groups = make_groups(settings, wanted, split_names(names))
    if not groups:
        return _make_result(domain, None, [], {}, "not needed", {})
    view, addresses = View(), find_addresses_in(wanted)
    entries = [_make_entry(group, view, addresses) for group in groups]
    zone = view.zone(dns.name.from_text(domain))
    servers = {
        str(server): view.silent.get(server, "answers")
        for servers in view.zones.values()
        for server in servers
    }
    pointers = {address: _find_pointers(view, address) for address in addresses}
    return _make_result(
        domain, str(zone), entries, servers, _describe_dnssec(view, domain), pointers
    )


def split_names(names):
    """Return names in the form that `records` writes, or None for all names."""
    given = names.split(",") if isinstance(names, str) else names
    return given and [f"{name.strip().lower().rstrip('.')}." for name in given]


def _make_result(domain, zone, entries, servers, dnssec, ptr):
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


def find_addresses_in(wanted):
    """Return the IP addresses in the records."""
    return [record["value"] for record in wanted if record["type"] in ("A", "AAAA")]


def _make_entry(group, view, addresses):
    """Return the entry of `check` for one group: the worst of the servers' answers."""
    name = dns.name.from_text(group.name)
    answers = view.answers(name, group.type)
    verdicts = {}
    for server, answer in answers.items():
        if isinstance(answer, Answer):
            ask = functools.partial(_ask_one, view, server)
            verdicts[server] = evaluate(group, ask, view, addresses)
    if not verdicts:
        raise OperatorError(describe_silence(name, view.zone(name), answers))
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
    """Return one server's Answer, an empty one when the server does not answer any more."""
    answer = view.answers(name, rdtype)[server]
    return answer if isinstance(answer, Answer) else Answer((), TTL, None)


def _find_pointers(view, address):
    """Return the names in the PTR records of an IP address, for information only."""
    try:
        found = view.resolver.resolve(dns.reversename.from_address(address), "PTR")
    except dns.exception.DNSException:
        return []
    return [str(rdata.target) for rdata in found]


def _describe_dnssec(view, domain):
    """Return a text: whether the resolver of this machine validated the domain."""
    view.resolver.use_edns(0, dns.flags.DO, 1232)
    view.resolver.flags = dns.flags.RD | dns.flags.AD
    try:
        response = view.resolver.resolve(f"{domain}.", "SOA", raise_on_no_answer=False).response
    except dns.exception.DNSException as error:
        return f"unknown: {describe_error(error)}"
    return "validated" if response.flags & dns.flags.AD else "not signed, or not validated here"


def report(settings):
    """Return the result of `check` as text for a terminal, with the wrong records first."""
    found = check(settings)
    if not found["records"]:
        return f"{found['domain']} needs no DNS records."
    lines = [f"DNS of {found['domain']}, zone {found['zone']}"]
    lines += [f"  server {server}: {state}" for server, state in found["servers"].items()]
    order = ("wrong", "missing", "ok", "not needed")
    for entry in sorted(found["records"], key=lambda entry: order.index(entry["status"])):
        lines += _describe_entry(entry)
    lines.append(f"DNSSEC: {found['dnssec']}")
    lines += [f"PTR of {a}: {', '.join(names) or 'none'}" for a, names in found["ptr"].items()]
    lines.append("All required records are right." if found["result"] else "DNS is not complete.")
    return "\n".join(lines)


def _describe_entry(entry):
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
