"""What became of the messages between each two relays, for the runner chatmail_fleet.ping.

All functions get answers by relay, each of them {"result", …} with what `chatmail_ping` returned.
"""

WAYS = ("mail", "https", "smtp")


def expected(domains, sent):
    """Return {relay: the number of messages that should arrive there}.

    domains: {relay: the part of its address after the @}. sent: answers of `chatmail_ping.send`.
    """
    return {relay: sum(_taken(each, domains[relay]) for each in sent.values()) for relay in domains}


def _taken(each, domain):
    if not each["result"]:
        return 0
    mail = "sent" in each["mail"] and domain not in each["left"]
    return mail + sum(not isinstance(value, str) for value in each["straight"][domain].values())


def join(opened, sent, seen, closed):
    """Return the rows of the matrix: the entries of `opened`, each with `to`.

    opened, sent, seen, closed: answers of the four functions of `chatmail_ping`.
    `to` is {way: {relay: seconds, the reason why a message was lost, or None}}.
    """
    domains = {relay: each["domain"] for relay, each in opened.items() if each["result"]}
    rows = {}
    for relay, each in opened.items():
        row = {name: value for name, value in each.items() if name != "domain"}
        # What fails once fails the rest, so the first failure is the one to tell.
        for step in (closed, seen, sent):
            if not step.get(relay, {"result": True})["result"]:
                row.update(step[relay])
        rows[relay] = _add_pairs(relay, row, domains, sent, seen)
    return rows


def _add_pairs(sender, row, domains, sent, seen):
    """Add to the row of a sender what became of its messages, and say what was lost."""
    to, reasons = {way: {} for way in WAYS}, {}
    out = sent.get(sender, {"result": False})
    for other in domains if sender in domains else ():
        known = out["result"] and seen[other]["result"]
        for way in WAYS:
            value = None
            if known:
                arrived = seen[other].get(domains[sender], {}).get(way)
                value = _judge(out, way, domains[other], arrived)
            to[way][other] = value
            if isinstance(value, str):
                reasons.setdefault((way, value), []).append(other)
    said = [f"{way} to {', '.join(others)}: {why}" for (way, why), others in reasons.items()]
    lost = any(way == "mail" for way, _why in reasons)
    comment = "; ".join(filter(None, [row.get("comment"), *said]))
    return {**row, "result": row["result"] and not lost, "comment": comment, "to": to}


def _judge(out, way, domain, arrived):
    """Return the seconds that a message took, or why it was lost.

    arrived: when it came into the mailbox, Unix seconds, None when it did not.
    """
    if way != "mail":
        taken = out["straight"][domain][way]
        return taken if isinstance(taken, str) or arrived else "taken, and not in the mailbox"
    if arrived:
        return round(arrived - out["mail"]["sent"], 3)
    return out["mail"].get("error") or out["left"].get(domain) or "sent, and not in the mailbox"
