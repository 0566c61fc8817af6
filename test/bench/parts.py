"""The parts of `make bench` that need a relay: each measures one kind of figures."""

import statistics

from bench import (
    baselines,
    between,
    clients,
    converges,
    conversation,
    cores,
    growth,
    load,
    mailbox,
)
from bench.figures import median_and_p95
from bench.machine import OURS, Machine, difference

LARGE = 29_000_000  # bytes; the relay takes 30 MB
LARGE_COUNT = 3
COMPARED = 300  # logins of each kind that are compared with those of a static passdb
HOUR = 3600  # seconds
GROWN = 1024  # KB that a unit must grow by to count for the clients that wait


def converge(bench):
    """How long salt-call takes. This part comes first, because it makes the box."""
    machine = bench.box("one")
    bench.values["first"] = bench.details["first_converge"]
    bench.values["noop"], bench.values["changed"] = converges.again(machine)


def idle_box(bench):
    """What the box takes while nobody uses it, by unit."""
    used = bench.box("one").settled_memory()
    bench.details["memory"] = {unit: round(kb / 1024, 1) for unit, kb in used.most_common()}
    ours = sum(kb for unit, kb in used.items() if unit.startswith(OURS))
    bench.values |= {"box_memory": used.total() / 1024, "our_memory": ours / 1024}


def talk(bench):
    """A conversation, and clients that were idle for 2.5 s."""
    domain = bench.box("one").domain
    bench.values |= conversation_figures(domain, bench.details)


def conversation_figures(domain, details):
    """Return the four figures of a conversation on one relay."""
    talking, idle = conversation.conversation(domain)
    details["waits"] = {"conversation": talking, "idle for 2.5 s": idle}
    median, p95 = median_and_p95(talking)
    idle_median, idle_p95 = median_and_p95(idle)
    return {
        "conversation": median,
        "conversation_p95": p95,
        "idle": idle_median,
        "idle_p95": idle_p95,
    }


def begin_hour(bench):
    """Clients begin to wait for an hour. No part restarts the Dovecot of the second box."""
    bench.idle_clients = conversation.IdleClients(bench.box("two").domain)


def hour(bench):
    """Clients that were idle for an hour, most of it while other parts ran."""
    if bench.idle_clients is None:
        begin_hour(bench)
    waits = bench.idle_clients.waits(HOUR, bench.say)
    bench.details.setdefault("waits", {})["idle for an hour"] = waits
    bench.values["hour"], bench.values["hour_p95"] = median_and_p95(waits)


def static(bench):
    """Logins of existing addresses, against a Dovecot whose passdb and userdb are static."""
    machine = bench.box("one")
    accounts = clients.logins(machine, COMPARED)[-1]
    found = clients.compared_logins(machine, accounts)
    bench.details["compared_logins"] = found
    cpu = {kind: sum(used.values()) for kind, (_, used) in found.items()}
    bench.values |= {
        "static": found["static"][0],
        "logins_static": found["ours"][0] / found["static"][0],
        "login_cpu_static": cpu["static"] / cpu["ours"],
        "login_tls": 100 * cpu["tls"] / cpu["ours"],
        "login_hash": 100 * (cpu["static"] - cpu["unchecked"]) / cpu["ours"],
    }


def logins(bench):
    """New addresses and logins; then a client for each address, which waits."""
    machine = bench.box("one")
    new, known, cpu, accounts = clients.logins(machine, bench.options.clients)
    bench.details["login_cpu"] = cpu
    bench.values |= {"new_logins": new, "logins": known}
    before, full, left, growth = clients.waiting_clients(machine, accounts)
    # Other units shrink meanwhile, because they were busy in the parts before.
    grown = {unit: kb for unit, kb in difference(full, before).items() if kb > GROWN}
    bench.values["client_memory"] = sum(grown.values()) / len(accounts)
    returned = sum(full[unit] - left[unit] for unit in grown)
    bench.values["returned"] = 100 * returned / sum(grown.values())
    bench.details["growth"] = [
        (number, sum(used[unit] for unit in grown) / 1024) for number, used in growth
    ]
    bench.details["client_memory"] = {
        unit: {"before": before[unit], "clients": full[unit], "left": left[unit]} for unit in grown
    }


def sustained(bench):
    """40 senders at full speed, then at half of the rate that arrived."""
    machine = bench.box("one")
    found = load_figures(machine, bench.details)
    bench.values |= found
    bench.values["backlog"] = 100 * found["delivered"] / found["accepted"]
    bench.values["filter"] = bench.details["cpu"].get("chatmail-filter.service", 0)


def plain(bench):
    """40 senders at full speed through the same box without filter, push and compression."""
    machine = bench.box("one")
    with baselines.plain_chain(machine):
        crowd = load.Crowd(machine.domain, machine.domain)
        try:
            found = load.measure(crowd, [machine])
        finally:
            crowd.close()
    cpu = {unit: 1000 * used / found.messages for unit, used in found.cpu[machine.name].items()}
    bench.details["plain"] = {
        "accepted": found.accepted,
        "lost": found.lost,
        "cpu": {unit: round(ms, 3) for unit, ms in cpu.items() if ms > 0.01},
    }
    bench.values["plain"] = found.delivered
    if "delivered" in bench.values:
        bench.values["delivered_plain"] = bench.values["delivered"] / found.delivered


def load_figures(machine, details):
    """Return the figures of a load on one relay; details gets the rest."""
    crowd = load.Crowd(machine.domain, machine.domain)
    try:
        full = load.measure(crowd, [machine])
        half = load.measure(crowd, [machine], pace=full.delivered / 2)
    finally:
        crowd.close()
    used = {unit: 1000 * cpu / full.messages for unit, cpu in full.cpu[machine.name].items()}
    details["cpu"] = {unit: round(ms, 3) for unit, ms in used.items() if ms > 0.01}
    details["timeline"] = full.timeline
    details["load"] = {
        name: {"messages": each.messages, "lost": each.lost, "drained": each.drained}
        for name, each in (("full", full), ("half", half))
    }
    details.setdefault("waits", {})
    details["waits"] |= {"full speed": full.waits, "half speed": half.waits}
    found = {"accepted": full.accepted, "delivered": full.delivered, "cpu": sum(used.values())}
    found |= {"half_p95": median_and_p95(half.waits)[1], "full_p95": median_and_p95(full.waits)[1]}
    return found


def large(bench):
    """What the filter pays for messages that are as large as the relay takes them."""
    machine = bench.box("one")
    person = conversation.Person(machine.domain)
    before = machine.cpu()
    for _ in range(LARGE_COUNT):
        person.outbox.send(person.account.address, LARGE)
        person.outbox.confirm()
    used = difference(machine.cpu(), before)["chatmail-filter.service"]
    bench.values["filter_large"] = 1000 * used / LARGE_COUNT
    person.close()


def full_mailbox(bench):
    """Delivery into a mailbox with 5,000 unread messages against an empty one."""
    empty, full = mailbox.full_and_empty(bench.box("one"))
    bench.details["lmtp"] = {"empty": empty, "full": full}
    bench.values["full_mailbox"] = full / empty


def growing(bench):
    """The memory of each service before and after many messages through two relays."""
    one, other = bench.box("one"), bench.box("two")
    count, before, after = growth.measure(one, other, bench.options.messages, bench.say)
    grown = growth.percent(before, after)
    bench.details["growth_by_messages"] = {
        "messages": count,
        "percent": grown,
        "before": before,
        "after": after,
    }
    bench.values["growth"] = max(grown.values())


def core(bench):
    """Two Delta Chat cores on one relay."""
    domain = bench.box("one").domain
    joins, hops = cores.join_and_chat(domain, domain)
    bench.values |= {"core_hop": median_and_p95(hops)[0], "core_join": statistics.median(joins)}
    bench.details.setdefault("waits", {})["Delta Chat"] = hops


def relays(bench):
    """Two relays: a hop by HTTPS and by SMTP, 40 senders by HTTPS, Secure-Join."""
    one, other = bench.box("one"), bench.box("two")
    waits = bench.details.setdefault("waits", {})
    https = waits["relay to relay, HTTPS"] = between.hops(one, other)
    bench.values["https"], bench.values["https_p95"] = median_and_p95(https)
    between_figures(bench, one, other)
    joins, _ = cores.join_and_chat(one.domain, other.domain, 2)
    bench.values["core_join_two"] = statistics.median(joins)
    smtp = waits["relay to relay, SMTP"] = between.hops_by_smtp(one, other)
    bench.values["smtp"], bench.values["smtp_p95"] = median_and_p95(smtp)


def between_figures(bench, one, other):
    """40 senders on one relay to 40 recipients on another one."""
    crowd = load.Crowd(one.domain, other.domain)
    try:
        found = load.measure(crowd, [one, other])
    finally:
        crowd.close()
    bench.values["between"] = found.delivered
    bench.values["between_all"] = found.messages / found.timeline[-1][0]
    if "delivered" in bench.values:
        bench.values["between_ratio"] = 100 * found.delivered / bench.values["delivered"]
    bench.details["between"] = {
        "accepted": found.accepted,
        "messages": found.messages,
        "lost": found.lost,
        "drained": found.drained,
        "timeline": found.timeline,
        "cpu": {
            name: {unit: round(1000 * cpu / found.messages, 3) for unit, cpu in used.items()}
            for name, used in found.cpu.items()
        },
    }


def peer(name, found):
    """Measure another relay of the lab by the same client; its figures go into `found`."""
    machine = Machine(name)
    details = {}
    found["box_memory"] = machine.settled_memory().total() / 1024
    found |= conversation_figures(machine.domain, details)
    found |= load_figures(machine, details)
    found["new_logins"], found["logins"], _, _ = clients.logins(machine, 300)


# In the order in which they run: the box is idle first, and alone while its memory is read.
PARTS = {
    "converge": converge,
    "memory": idle_box,
    "begin-hour": begin_hour,
    "conversation": talk,
    "sustained": sustained,
    "plain": plain,
    "static": static,
    "clients": logins,
    "large": large,
    "mailbox": full_mailbox,
    "core": core,
    "relays": relays,
    "growth": growing,
    "hour": hour,
}
