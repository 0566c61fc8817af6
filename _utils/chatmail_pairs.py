"""What became of the messages between each two relays, for the runner chatmail_fleet.ping.

All functions get answers by relay, each of them {"result", …} with what `chatmail_ping` returned.
"""

import math
import re

WAYS = ("mail", "https", "smtp")
# A host name, or an IP address in brackets.
DOMAIN = re.compile(r"(?=.{1,253}\Z)([a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9A-Za-z:.]{2,60}\])")


def check(step, answers, domains):
    """Make a failure of each answer of another form than `chatmail_ping` has; return the answers.

    step: the name of the function. domains: {relay: its domain} of the relays that take part.
    So a relay that answers anything else, or in the name of another one, spoils its own row only.
    """
    said = [each.get("domain") for each in answers.values() if each["result"]]
    for relay, each in answers.items():
        if not each["result"]:
            continue
        if not FORMS[step](each, list(domains.values())):
            answers[relay] = _refuse(each, "the answer has another form than this release expects")
        elif step == "open" and said.count(each["domain"]) > 1:
            answers[relay] = _refuse(each, f"another relay says {each['domain']}, too")
    return answers


def _refuse(answer, why):
    return {"result": False, "answered": answer["answered"], "comment": why}


def _is_time(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_opened(answer, _domains):
    domain = answer.get("domain")
    return isinstance(domain, str) and DOMAIN.fullmatch(domain) is not None


def _is_sent(answer, domains):
    mail, left, straight = (answer.get(name) for name in ("mail", "left", "straight"))
    if not all(isinstance(each, dict) for each in (mail, left, straight)):
        return False
    if not (_is_time(mail.get("sent")) if "sent" in mail else isinstance(mail.get("error"), str)):
        return False
    ways = [straight.get(domain) for domain in domains]
    return all(isinstance(each, str) for each in left.values()) and all(
        isinstance(each, dict)
        and set(each) == {"https", "smtp"}
        and all(isinstance(value, str) or _is_time(value) for value in each.values())
        for each in ways
    )


def _is_seen(answer, domains):
    found = [answer[domain] for domain in domains if domain in answer]
    return all(isinstance(each, dict) and all(map(_is_time, each.values())) for each in found)


FORMS = {
    "open": _is_opened,
    "send": _is_sent,
    "seen": _is_seen,
    "close": lambda _answer, _domains: True,
}


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
