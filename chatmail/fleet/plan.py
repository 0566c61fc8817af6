"""Which relays an orchestration visits, and in which order: the key `chatmail_fleet` of the pillar.

The master's own pillar has the key. `chatmail/fleet/plan.jinja` renders this file.
"""

import re

AT_ONCE = 5
KEYS = {
    "canaries": "a list of minion ids",
    "canary_saltenv": "the name of a Salt environment",
    "waves": "a list of lists of minion ids",
    "at_once": "a number from 1 to 100",
    "relays": "a list of minion ids, or a compound target",
}


class PlanError(Exception):
    """The pillar's `chatmail_fleet` is wrong. The text has a line for each error."""


def run():
    """Return {"groups": […], "at_once": n}, or {"error": text}. Salt's py renderer calls this."""
    try:
        return plan(__pillar__.get("chatmail_fleet"))
    except PlanError as error:
        return {"error": str(error)}


def plan(fleet):
    """Return the groups of relays in their order, from the value of `chatmail_fleet`.

    A group is {"name", "relays", "later", "saltenv"}: the ids, those of all later groups, and the
    environment of the formula, empty for the usual one. Without `waves`, a list in `relays` is one
    wave, without the canaries. Raises PlanError.
    """
    if not isinstance(fleet, dict) or not fleet:
        raise PlanError(
            "chatmail_fleet: the pillar of the master has no such key; expected: a dictionary with "
            "canaries and waves, as in pillar.example"
        )
    canaries = fleet.get("canaries") or []
    waves = fleet.get("waves")
    if waves is None:
        rest = fleet.get("relays")
        waves = [[r for r in rest if r not in canaries]] if isinstance(rest, list) else []
    errors = _errors(fleet, canaries, waves)
    if errors:
        raise PlanError("\n".join(errors))
    groups = [("canaries", canaries, fleet.get("canary_saltenv") or "")]
    groups += [(f"wave {number}", wave, "") for number, wave in enumerate(waves, 1)]
    groups = [group for group in groups if group[1]]
    later = [[r for _, relays, _ in groups[n + 1 :] for r in relays] for n in range(len(groups))]
    return {
        "groups": [
            {"name": name, "relays": relays, "later": rest, "saltenv": saltenv}
            for (name, relays, saltenv), rest in zip(groups, later, strict=True)
        ],
        "at_once": fleet.get("at_once", AT_ONCE),
    }


def _errors(fleet, canaries, waves):
    """Return a line for each error in the pillar."""
    errors = [
        f"chatmail_fleet:{key}: no such key; expected: {', '.join(sorted(KEYS))}"
        for key in fleet
        if key not in KEYS
    ]

    def wrong(key, found):
        errors.append(f"chatmail_fleet:{key}: {found!r}; expected: {KEYS[key]}")

    if not _are_ids(canaries):
        wrong("canaries", canaries)
    if not isinstance(waves, list) or not all(_are_ids(wave) for wave in waves):
        wrong("waves", waves)
    at_once = fleet.get("at_once", AT_ONCE)
    if type(at_once) is not int or not 1 <= at_once <= 100:
        wrong("at_once", at_once)
    saltenv = fleet.get("canary_saltenv")
    if saltenv and not (isinstance(saltenv, str) and re.fullmatch(r"[\w.-]+", saltenv)):
        wrong("canary_saltenv", saltenv)
    if errors:
        return errors
    relays = [*canaries, *(relay for wave in waves for relay in wave)]
    errors += [
        f"chatmail_fleet: {relay} is in the plan {relays.count(relay)} times; expected: once"
        for relay in dict.fromkeys(relays)
        if relays.count(relay) > 1
    ]
    if not relays:
        errors.append("chatmail_fleet: no relay in canaries and waves; expected: at least one")
    return errors


def _are_ids(value):
    """Return whether this is a list of minion ids."""
    return isinstance(value, list) and all(isinstance(each, str) and each for each in value)
