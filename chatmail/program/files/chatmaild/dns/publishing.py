"""The publication of records: all changes in one step, or none."""

import collections

import dns.name

from chatmaild.common.errors import OperatorError
from chatmaild.dns import updates
from chatmaild.dns.authoritative import View
from chatmaild.dns.checking import find_addresses_in, split_names
from chatmaild.dns.comparison import evaluate, is_ours, make_groups
from chatmaild.dns.rdata import format_value, make_rdata
from chatmaild.dns.records import TTL, list_records

# The change of one name and type. old, new: the rdata before and after.
Change = collections.namedtuple("Change", "name rdtype ttl old new")


def list_changes(settings, names=None):
    """Return the changes that `publish` would make.

    names: a list of names, or one text with commas, as `records` writes them; by default all.
    Returns a list of {"zone", "name", "type", "ttl", "old", "new"}. old and new are all values of
    the name and type before and after the change. Values that are not the relay's are in both.
    Raises OperatorError when the pillar has no way to publish, or when the zone cannot be read.
    """
    zone, ask, _primary = _find_route(settings)
    plan = make_plan(settings, split_names(names), zone, ask)
    return [_describe_change(zone, change) for change in plan]


def publish(settings, names=None):
    """Publish the records that the relay needs: all changes in one step, or none.

    names: a list of names, or one text with commas, as `records` writes them; by default all.
    Returns the changes that were made, in the form of `list_changes`.
    The changes are one RFC 2136 update to `dns:server`, signed with the key of `dns:tsig_key_file`.
    The update has prerequisites: the primary refuses it when the zone has changed meanwhile. With
    `dns:hook` the Salt module publishes: it calls the hook with the result of `list_changes`.
    Raises OperatorError when the zone cannot be read, or when the primary refuses the update.
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
                "whether these names have other records (a CNAME must be the only record)"
            )
    return shown


def _find_route(settings):
    """Return (zone, ask, primary).

    zone: the zone that gets the changes. ask: the function that reads the present records, as
    `evaluate` needs it. primary: the server for updates, or None when a hook publishes.
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
        "dns:hook, or put the output of `chatmail_dns.zone` into the zone by hand"
    )


def make_plan(settings, names, zone, ask):
    """Return the Changes that the zone needs."""
    wanted, view, planned = list_records(settings), View(), {}
    addresses = find_addresses_in(wanted)
    for group in make_groups(settings, wanted, names):
        for change in _plan_group(group, ask, view, addresses):
            planned[change.name, change.rdtype] = change
    outside = [str(name) for name, _ in planned if not name.is_subdomain(zone)]
    if outside:
        raise OperatorError(
            f"{', '.join(outside)} cannot be in zone {zone}: correct chatmail:dns:zone"
        )
    return list(planned.values())


def _plan_group(group, ask, view, addresses):
    """Return the Changes that one group needs. Removals of conflicting records come first."""
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
