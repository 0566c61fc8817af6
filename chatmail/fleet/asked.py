"""Which machines a move or a drain is for: `chatmail_move` and `chatmail_drain` in the pillar.

They are given at the command line, because they are for one run. `chatmail/fleet/asked.jinja`
renders this file.
"""


class AskedError(Exception):
    """The pillar's key is missing or wrong. The text says what is expected."""


def run():
    """Return {"move": {"from", "to"}, "drain": {"relays", "mail"}} or {"error": text}.

    A key that the pillar lacks is missing here. Salt's py renderer calls this.
    """
    try:
        return asked(__pillar__)
    except AskedError as error:
        return {"error": str(error)}


def asked(pillar):
    """Return what `run` does, from a pillar. Raises AskedError."""
    found = {}
    if "chatmail_move" in pillar:
        found["move"] = _move(pillar["chatmail_move"])
    if "chatmail_drain" in pillar:
        found["drain"] = _drain(pillar["chatmail_drain"])
    if not found:
        raise AskedError(
            'no machine is named; expected: pillar=\'{"chatmail_move": {"from": "old", '
            '"to": "new"}}\' or pillar=\'{"chatmail_drain": {"relays": ["relay1"]}}\''
        )
    return found


def _move(given):
    """Check the two machines of a move."""
    if not isinstance(given, dict) or set(given) != {"from", "to"} or not _are_ids(given.values()):
        raise AskedError(f"chatmail_move: {given!r}; expected: from and to, two minion ids")
    if given["from"] == given["to"]:
        raise AskedError(f"chatmail_move: {given['from']!r} twice; expected: two machines")
    return dict(given)


def _drain(given):
    """Check the relays of a drain; `mail` is a boolean afterwards."""
    # YAML makes booleans of on and off.
    words = {"on": True, "off": False, True: True, False: False}
    relays = given.get("relays") if isinstance(given, dict) else None
    good = isinstance(relays, list) and relays and _are_ids(relays)
    if not good or not set(given) <= {"relays", "mail"} or given.get("mail", True) not in words:
        raise AskedError(
            f"chatmail_drain: {given!r}; expected: relays, a list of minion ids, and mail, on or "
            "off; on is the default"
        )
    return {"relays": relays, "mail": words[given.get("mail", True)]}


def _are_ids(values):
    return all(isinstance(each, str) and each for each in values)
