"""DNS is made to hold what it should: all changes in one step, or none."""

import collections

import dns.name

from chatmaild.common.errors import OperatorError
from chatmaild.dns import updates
from chatmaild.dns.authoritative import View
from chatmaild.dns.checking import find_addresses_in, split_names
from chatmaild.dns.comparison import evaluate, is_ours, make_groups
from chatmaild.dns.rdata import format_value, make_rdata
from chatmaild.dns.records import TTL, list_records

# What the zone must become: rdata before and after of one name and type.
Change = collections.namedtuple("Change", "name rdtype ttl old new")


def list_changes(settings, names=None):
    """Return what `publish` would change.

    names: list of names, or one text with commas, as `records` writes them; by default all.
    Returns a list of {"zone", "name", "type", "ttl", "old", "new"}: all values of a name and type
    before and after; those of others stay among them. Raises OperatorError when pillar
    names no way to publish or the zone cannot be read.
    """
    zone, ask, _primary = _find_route(settings)
    plan = make_plan(settings, split_names(names), zone, ask)
    return [_describe_change(zone, change) for change in plan]


def publish(settings, names=None):
    """Make DNS hold what it should: all changes in one step, or none.

    names: list of names, or one text with commas, as `records` writes them; by default all.
    Returns the changes made, as `changes` shows them. With `dns:server` in pillar they are one
    RFC 2136 update signed with the TSIG key of `dns:tsig_key_file`, whose prerequisites make the
    primary refuse it when the zone changed meanwhile. Where a hook publishes, the asker calls it
    with what `list_changes` returns. Raises OperatorError when anything refuses.
    """
    zone, ask, primary = _find_route(settings)
    if primary is None:
        raise OperatorError("chatmail:dns:hook is a Salt function: run `chatmail_dns.publish`")
    plan = make_plan(settings, split_names(names), zone, ask)
    shown = [_describe_change(zone, change) for change in plan]
    if plan:
        updates.send_update(primary, zone, plan)
        rest = make_plan(settings, split_names(names), zone, ask)
        left = [f"{change.name} {change.rdtype}" for change in rest]
        if left:
            raise OperatorError(
                f"{primary.shown} took the update and did not change {', '.join(left)}: see "
                "whether other records of these names are in the way (a CNAME stands alone)"
            )
    return shown


def _find_route(settings):
    """Return (zone, ask, primary): where changes go, and who is asked for the present state.

    ask is a function as `evaluate` wants it. primary is None where a hook publishes.
    """
    given, domain = settings["dns"], dns.name.from_text(settings["mail_domain"])
    if given["server"]:
        primary = updates.load_primary(given)
        zone = given["zone"] and dns.name.from_text(given["zone"])
        zone = zone or updates.find_zone(primary, domain)
        return zone, lambda name, rdtype: updates.ask(primary, zone, name, rdtype), primary
    if given["hook"]:
        view = View()
        zone = given["zone"] and dns.name.from_text(given["zone"])
        return zone or view.zone(domain), view.first, None
    raise OperatorError(
        "pillar names no way to publish: set chatmail:dns:server with dns:tsig_key_file, or "
        "dns:hook, or put by hand into the zone what `chatmail_dns.zone` prints"
    )


def make_plan(settings, names, zone, ask):
    """Return the Changes that the zone needs."""
    wanted, view, planned = list_records(settings), View(), {}
    addresses = find_addresses_in(wanted)
    for group in make_groups(settings, wanted, names):
        for change in _changes_of(group, ask, view, addresses):
            planned[change.name, change.rdtype] = change
    outside = [str(name) for name, _ in planned if not name.is_subdomain(zone)]
    if outside:
        raise OperatorError(
            f"{', '.join(outside)} cannot be in zone {zone}: correct chatmail:dns:zone"
        )
    return list(planned.values())


def _changes_of(group, ask, view, addresses):
    """Return the Changes that one group needs, those that make room for it first."""
    status, _ = evaluate(group, ask, view, addresses)
    name = dns.name.from_text(group.name)
    answer = ask(name, group.type)
    if status == "ok":
        return []
    needed = []
    if answer.alias:
        alias = make_rdata("CNAME", answer.alias.to_text())
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
        if group.wanted and not is_ours(group.type, group.wanted, format_value(rdata))
    )
    new = others + tuple(make_rdata(group.type, value) for value in group.wanted)
    if new or answer.values:
        ttl = answer.ttl if answer.values else TTL
        needed.append(Change(name, group.type, ttl, answer.values, new))
    return needed


def _describe_change(zone, change):
    return {
        "zone": str(zone),
        "name": str(change.name),
        "type": change.rdtype,
        "ttl": change.ttl,
        "old": sorted(map(format_value, change.old)),
        "new": sorted(map(format_value, change.new)),
    }
