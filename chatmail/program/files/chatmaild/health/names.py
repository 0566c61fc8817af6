"""The steps about DNS: the records, and the keys that sign."""

from chatmaild.dkim import probing
from chatmaild.dns import checking
from chatmaild.health.running import Failed, NotAsked, State


def records(state: State) -> str:
    """The authoritative servers answer what the relay needs."""
    state.needs_dns()
    if state.settings["form"] == "ip":
        raise NotAsked("a relay without a domain needs no records")
    state.dns = found = checking.check(state.settings)
    wrong = [
        f"{each['name']} {each['type']} is {each['status']}"
        for each in found["records"]
        if each["need"] != "recommended" and each["status"] in ("missing", "wrong")
    ]
    if not found["result"]:
        raise Failed(f"{', '.join(wrong)}; expected: all required records are right")
    advised = sum(each["status"] in ("missing", "wrong") for each in found["records"])
    return "right" + (f"; recommended records that are not: {advised}" if advised else "")


def signatures(state: State) -> str:
    """Other servers can verify a message that each key signs."""
    if not state.settings["dkim_required"]:
        raise NotAsked("a relay without a domain does not sign")
    state.needs_dns()
    if state.dns is None:
        raise NotAsked("DNS gave no records (see the step dns)")
    txt = {each["name"]: each["found"] for each in state.dns["records"] if each["type"] == "TXT"}
    found = probing.probe(state.settings, txt)
    wrong = {selector: text for selector, text in found.items() if text != "verified"}
    if wrong:
        said = ", ".join(f"{selector}: {text}" for selector, text in wrong.items())
        raise Failed(f"{said}; expected: verified")
    return f"keys that others can verify: {len(found)}"
