"""The comparison of records by their meaning, not by their text."""

import collections

import dns.name

from chatmaild.common.errors import InvalidRequest
from chatmaild.dkim.key_records import list_withdrawn
from chatmaild.dns.rdata import format_value
from chatmaild.dns.records import WHY


def _parse_tags(value):
    """Return the tags of a text such as `v=DKIM1; k=rsa`, with names in lower case."""
    pairs = (part.partition("=") for part in value.split(";") if part.strip())
    return {name.strip().lower(): "".join(text.split()) for name, _, text in pairs}


def _same_dkim(wanted, found):
    """Compare key records (RFC 6376 section 3.6.1). The found one may have other flags too."""
    wanted, found = _parse_tags(wanted), _parse_tags(found)
    return (
        found.get("v", "DKIM1") == "DKIM1"
        and found.get("k", "rsa").lower() == wanted["k"]
        and found.get("p") == wanted["p"]
        and not {"*", "email"}.isdisjoint(found.get("s", "*").lower().split(":"))
        and "sha256" in found.get("h", "sha256").lower().split(":")
        # t=y asks other servers to treat the relay's mail as unsigned.
        and "y" not in found.get("t", "").lower().split(":")
    )


def _same_dmarc(wanted, found):
    """Compare DMARC policies (RFC 7489 section 6.3). The addresses for reports may differ."""
    wanted, found = _parse_tags(wanted), _parse_tags(found)
    strict = all(found.get(tag, "").lower() == wanted[tag] for tag in ("p", "adkim", "aspf"))
    return strict and found.get("pct", "100") == "100"


def _same_spf(_wanted, found):
    """Return whether an SPF policy passes the domain's own address (RFC 7208 section 4.6)."""
    for term in found.lower().split()[1:]:
        if term.lstrip("+") in ("a", "mx"):
            return True
        if term.lstrip("+-~?") == "all":
            break
    return False


def _same_tags(wanted, found):
    return _parse_tags(wanted) == _parse_tags(found)


def _same_mx(wanted, found):
    """Compare MX data by host. The preference of a single record does not matter."""
    return wanted.lower().split()[1:] == found.lower().split()[1:]


def _same_srv(wanted, found):
    """Compare SRV data by port and host. Priority and weight of a single record do not matter."""
    return wanted.lower().split()[2:] == found.lower().split()[2:]


def _same_caa(wanted, found):
    """Compare the tag, the issuer and the parameters of CAA records (RFC 8659 section 4.2)."""
    return _split_caa(wanted) == _split_caa(found)


def _split_caa(value):
    _flags, tag, text = value.split(None, 2)
    issuer, *parameters = [part.strip() for part in text.strip('"').split(";")]
    return tag.lower(), issuer.lower(), {part.replace(" ", "") for part in parameters if part}


def _same_text(wanted, found):
    return wanted.lower() == found.lower()


# The beginnings of the relay's TXT records, and the functions that compare them. A name may have
# other TXT records too, such as a proof of ownership for some service. Those are left alone.
TXT_COMPARED = {
    "v=spf1": _same_spf,
    "v=dmarc1": _same_dmarc,
    "v=stsv1": _same_tags,
    "v=dkim1": _same_dkim,
    "dkim=": _same_tags,
}


COMPARED = {"MX": _same_mx, "SRV": _same_srv, "CAA": _same_caa}


def _find_kind(value):
    """Return the key of TXT_COMPARED for a TXT value, None for another kind of value."""
    start = "".join(value.lower().split())
    return next((kind for kind in TXT_COMPARED if start.startswith(kind)), None)


def _means_the_same(rdtype, wanted, found):
    """Return whether two values of one type mean the same."""
    if rdtype == "TXT":
        return TXT_COMPARED[_find_kind(wanted)](wanted, found)
    return COMPARED.get(rdtype, _same_text)(wanted, found)


def is_ours(rdtype, wanted, found):
    """Return whether a found value is of the same kind as the wanted values, right or wrong."""
    if rdtype == "TXT" and _find_kind(wanted[0]) not in ("v=dkim1", "dkim="):
        return _find_kind(found) == _find_kind(wanted[0])
    if rdtype == "CAA":
        return _split_caa(found)[0] == "issue"
    return True


def judge(rdtype, wanted, ours):
    """Return ok, missing or wrong for the values of one name and type.

    ours: the found values for which `is_ours` is true.
    """
    if not ours:
        return "missing"
    if rdtype == "TXT" and len(ours) != len(wanted):
        return "wrong"  # With two policies, none is valid (RFC 7208 4.5, RFC 7489 6.6.3).
    complete = all(any(_means_the_same(rdtype, each, value) for value in ours) for each in wanted)
    exact = all(any(_means_the_same(rdtype, each, value) for each in wanted) for value in ours)
    return "ok" if complete and exact else "wrong"


# A name, a type, and the values that must exist. Without values, the record must not exist.
# alone: the name needs records of no other type, so an alias may replace them (RFC 1034 3.6.2).
Group = collections.namedtuple("Group", "name type wanted need why alone")


def make_groups(settings, wanted, names):
    """Return the groups of records that must exist, and then those of records that must not.

    wanted: the result of `records`. names: only the groups of these names, or None for all.
    Raises InvalidRequest for a name that the relay has no record of.
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
        groups += _list_unwanted(settings, f"{settings['mail_domain']}.", grouped)
    unknown = set(names or ()) - {group.name for group in groups}
    if unknown:
        raise InvalidRequest(
            f"the relay has no record of the name {', '.join(sorted(unknown))}: see "
            "`chatmail_dns.records`"
        )
    return [group for group in groups if names is None or group.name in names]


def _list_unwanted(settings, domain, grouped):
    rows = [(domain, kind, "unused address") for kind in ("A", "AAAA")]
    rows += [
        (f"mta-sts.{domain}", "CNAME", "test domain"),
        (f"_mta-sts.{domain}", "TXT", "test domain"),
    ]
    rows += [(name, "TXT", "withdrawn") for name in list_withdrawn(settings)]
    return [
        Group(name, kind, [], "not needed", WHY[why], name != domain)
        for name, kind, why in rows
        if (name, kind) not in grouped
    ]


def evaluate(group, ask, view, addresses):
    """Return (status, found values) of a group.

    ask: a function of a name and a type that returns the Answer of one server.
    view: the View that follows aliases. addresses: the IP addresses that the domain should have.
    """
    name = dns.name.from_text(group.name)
    answer = ask(name, group.type)
    if answer.alias and not group.alone:
        return "wrong", [f"CNAME {answer.alias}"]
    if group.type == "CNAME" and group.wanted:
        return _evaluate_alias(group, answer, lambda rdtype: ask(name, rdtype), view, addresses)
    found = [format_value(rdata) for rdata in view.followed(answer, group.type)]
    if not group.wanted:
        return "wrong" if found and group.type in ("A", "AAAA") else "not needed", found
    found = [value for value in found if is_ours(group.type, group.wanted, value)]
    status = judge(group.type, group.wanted, found)
    return status, [f"CNAME {answer.alias}"] if answer.alias and not found else found


def _evaluate_alias(group, answer, ask, view, addresses):
    """Judge a name that must lead to this machine, by a CNAME or by the machine's addresses."""
    if answer.values:
        target = answer.values[0].target
        if target == dns.name.from_text(group.wanted[0]):
            return "ok", [format_value(answer.values[0])]
        found, reached = [f"CNAME {target}"], view.addresses(target)
    else:
        found = [format_value(rdata) for rdtype in ("A", "AAAA") for rdata in ask(rdtype).values]
        reached = found
    if not found:
        return "missing", []
    return "ok" if set(reached) == set(addresses) else "wrong", found
