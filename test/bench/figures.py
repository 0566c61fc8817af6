"""All figures with their goals, in one table, and how they are printed."""

import math
import statistics
from typing import NamedTuple


class Figure(NamedTuple):
    """One figure.

    key: its name in the JSON file. goal: a number, one for each release, or None. more: whether a
    larger value is better. how: how it is taken.
    """

    key: str
    name: str
    unit: str
    goal: float | dict | None
    how: str
    more: bool = False


FIGURES = (
    Figure("conversation", "conversation, median", "ms", 10, "end of DATA to EXISTS, 2 clients"),
    Figure("conversation_p95", "conversation, p95", "ms", 25, "the same 200 messages"),
    Figure("idle", "idle for 2.5 s, median", "ms", 12, "the same after 2.5 s of IDLE"),
    Figure("idle_p95", "idle for 2.5 s, p95", "ms", 30, "the same 40 messages"),
    Figure(
        "conversation_cmdeploy",
        "conversation, median, of cmdeploy's",
        "x",
        0.5,
        "the same with PEERS=cmdeploy=box",
    ),
    Figure("hour", "idle for an hour, median", "ms", 12, "40 clients in IDLE, a message to each"),
    Figure("hour_p95", "idle for an hour, p95", "ms", 30, "the same 40 messages"),
    Figure("accepted", "accepted", "/s", None, "40 senders, 10 KB, sessions kept, 30 s", more=True),
    Figure("delivered", "into mailboxes", "/s", None, "files in 40 maildirs, same 30 s", True),
    Figure(
        "delivered_cmdeploy",
        "into mailboxes, of cmdeploy's",
        "x",
        4,
        "the same with PEERS=cmdeploy=box",
        more=True,
    ),
    Figure(
        "plain",
        "into mailboxes, plain chain",
        "/s",
        None,
        "same box without filter, push, compression",
        more=True,
    ),
    Figure("delivered_plain", "into mailboxes, of the plain chain", "x", 0.9, "ours / plain", True),
    Figure("backlog", "delivered of accepted", "%", 90, "of the same 30 s", more=True),
    Figure("cpu", "CPU a message", "ms", 9, "/proc of all services, until all arrived"),
    Figure("half_p95", "notice at half that rate, p95", "ms", 100, "5 pairs in IDLE, each 1/s"),
    Figure("full_p95", "notice at full speed, p95", "ms", 2000, "5 pairs in IDLE, each 1/s"),
    Figure(
        "box_memory",
        "whole idle box",
        "MB",
        {"debian-13": 120, "debian-12": 105},
        "PSS of all processes after the converge",
    ),
    Figure("our_memory", "of that, our services", "MB", 45, "PSS of chatmail-*"),
    Figure("client_memory", "idle TLS client", "KB", 40, "PSS of what grew, with and without them"),
    Figure("returned", "given back after they left", "%", 80, "PSS 60 s later", more=True),
    Figure("new_logins", "new addresses by login", "/s", None, "16 at once, TLS", more=True),
    Figure(
        "new_logins_cmdeploy",
        "new addresses, of cmdeploy's",
        "x",
        3,
        "the same with PEERS=cmdeploy=box",
        more=True,
    ),
    Figure("logins", "logins", "/s", None, "16 at once, TLS, existing addresses", more=True),
    Figure(
        "static",
        "logins, static passdb",
        "/s",
        None,
        "same Dovecot, TLS and hash, no Lua",
        more=True,
    ),
    Figure(
        "logins_static", "logins, of those with a static passdb", "x", 0.9, "ours / static", True
    ),
    Figure(
        "login_cpu_static", "a login's CPU, static / ours", "x", 0.9, "/proc, the same logins", True
    ),
    Figure("login_tls", "TLS handshake, of a login's CPU", "%", None, "a connection without login"),
    Figure(
        "login_hash", "password's hash, of a login's CPU", "%", None, "static, with / without it"
    ),
    Figure("https", "relay to relay by HTTPS, median", "ms", 25, "end of DATA to EXISTS"),
    Figure("https_p95", "relay to relay by HTTPS, p95", "ms", None, "the same 100 messages"),
    Figure("smtp", "relay to relay by SMTP, median", "ms", 50, "port 443 prohibited by a rule"),
    Figure("smtp_p95", "relay to relay by SMTP, p95", "ms", None, "the same 40 messages"),
    Figure("between", "relay to relay, sustained", "/s", None, "as above, by HTTPS", more=True),
    Figure(
        "between_all", "the same, until all arrived", "/s", None, "messages / all the time", True
    ),
    Figure("between_ratio", "sustained, of the local rate", "%", 70, "by HTTPS / local", True),
    Figure("filter", "filter CPU, 10 KB in the chain", "ms", 1.5, "/proc, the 30 s above"),
    Figure("filter_large", "filter CPU, 30 MB with DKIM", "ms", 200, "/proc, 29 MB in the chain"),
    Figure("full_mailbox", "into 5,000 unread / empty", "x", 1.2, "median of 200 LMTP deliveries"),
    Figure(
        "growth", "growth by messages, worst service", "%", 5, "PSS_Anon after a warm-up, after all"
    ),
    Figure("core_hop", "Delta Chat hop, median", "ms", 70, "send_text to the incoming event"),
    Figure("core_join", "Secure-Join on one relay", "s", 1, "scan until both are green"),
    Figure("core_join_two", "Secure-Join on two relays", "s", 1.5, "scan until both are green"),
    Figure("first", "first converge", "s", 30, "salt-call in a new box"),
    Figure("noop", "converge without a change", "s", 1.2, "the best of 3"),
    Figure("changed", "converge with one setting changed", "s", 2.5, "the best of 2"),
)

# Figures that have a goal in relation to chatmail/relay's `cmdeploy`.
OF_CMDEPLOY = ("conversation", "delivered", "new_logins")


def of_cmdeploy(values, peers):
    """Return the ratios to the peer that is named `cmdeploy`, as far as both were measured."""
    theirs = peers.get("cmdeploy", {})
    return {
        f"{key}_cmdeploy": values[key] / theirs[key]
        for key in OF_CMDEPLOY
        if key in values and theirs.get(key)
    }


def percentile(values, percent):
    """Return the value that `percent` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def milliseconds(waits):
    """Return a line about waits in seconds."""
    return (
        f"median {statistics.median(waits) * 1000:.1f} ms, p95 {percentile(waits, 95) * 1000:.1f} "
        f"ms, slowest {max(waits) * 1000:.1f} ms, {len(waits)} messages"
    )


def median_and_p95(waits):
    """Return the median and the 95th percentile of waits in seconds, both in milliseconds."""
    return statistics.median(waits) * 1000, percentile(waits, 95) * 1000


def goal_of(figure, release):
    """Return the goal of a figure for a release: a number or None."""
    return figure.goal[release] if isinstance(figure.goal, dict) else figure.goal


def verdict(figure, value, release):
    """Return "met" or "missed", or "" without a value or without a goal."""
    goal = goal_of(figure, release)
    if value is None or goal is None:
        return ""
    return "met" if (value >= goal if figure.more else value <= goal) else "missed"


def shown(value):
    """Return a number with three digits that count; whole numbers from 100 on."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def shown_goal(figure, release):
    """Return the goal as it is printed."""
    goal = goal_of(figure, release)
    if goal is None:
        return "-"
    return f"{'≥' if figure.more else '≤'} {shown(goal)}"


def table(values, release):
    """Return the lines of a Markdown table of all figures that have a value."""
    head = ("figure", "goal", "value", "unit", "verdict", "how it was taken")
    rows = [
        (
            figure.name,
            shown_goal(figure, release),
            shown(values[figure.key]),
            figure.unit,
            verdict(figure, values[figure.key], release),
            figure.how,
        )
        for figure in FIGURES
        if figure.key in values
    ]
    return in_columns([head, *rows])


def comparison(values, peers):
    """Return the lines of a Markdown table with the peers' figures.

    peers: {name: values}. Behind each of their values is ours, divided by it.
    """

    def cell(key, theirs):
        ours = values.get(key)
        ratio = f" ({shown(ours / theirs)} x)" if ours is not None and theirs else ""
        return shown(theirs) + ratio

    rows = [
        (
            figure.name,
            figure.unit,
            shown(values.get(figure.key)),
            *(cell(figure.key, found.get(figure.key)) for found in peers.values()),
        )
        for figure in FIGURES
        if any(figure.key in found for found in peers.values())
    ]
    return in_columns([("figure", "unit", "ours", *peers), *rows])


def in_columns(rows):
    """Return rows of text as a Markdown table. The first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines
