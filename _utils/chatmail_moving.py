"""Where the move of a relay stands, by what its two machines say about themselves.

found: {minion: what `chatmail_move.state` returned}. source, target: the ids of the two minions. A
machine with `mail_off` serves nobody, and the reason names the other machine.
"""

from salt.exceptions import CommandExecutionError

# The disk of the new machine needs so many bytes more than the mail.
RESERVE = 1 << 30


def reasons(source, target):
    """Return why mail is off on the source after a move, and why on the target before it."""
    return f"this relay moved to {target}", f"this relay comes here from {source}"


def is_finished(found, source, target):
    """Return whether the target serves, and the source is off because of that."""
    return found[target]["mail_off"] is None and _is_off_for(found[source], source, target)


def _is_off_for(state, machine, other):
    """Return whether a machine's mail is off because of a move, in any direction, with another."""
    return state["mail_off"] in (reasons(machine, other)[0], reasons(other, machine)[1])


def check(found, source, target):
    """Raise CommandExecutionError with all that speaks against this move."""
    old, new = found[source], found[target]
    needed = old["used"] - new["used"] + RESERVE
    empty = not new["addresses"] if new["mail_off"] is None else True
    ours = new["mail_off"] is None or _is_off_for(new, target, source)
    wanted = {
        f"domain: {old['domain']} in the pillar of {source}, {new['domain']} in that of {target}; "
        "expected: the same": old["domain"] == new["domain"],
        f"mailboxes_dir: {old['mailboxes_dir']} in the pillar of {source}, {new['mailboxes_dir']} "
        f"in that of {target}; expected: the same": old["mailboxes_dir"] == new["mailboxes_dir"],
        f"mail_domain: {old['domain']} is an address of {source} and cannot move; expected: a "
        "domain": old["form"] != "ip",
        f"{source} is no relay; expected: a converged machine": bool(old["formula"]),
        f"mail: false in the pillar of {target}; expected: true, or no such key": new["mail"],
        f"{source}: mail is off ({old['mail_off']}); expected: a relay that serves": (
            old["mail_off"] is None or _is_off_for(old, source, target)
        ),
        f"{target} has {new['addresses']} addresses, which a move would delete; expected: "
        "none": empty,
        f"{target}: mail is off ({new['mail_off']}); expected: on, or off by a move from "
        f"{source}": ours,
        f"{target}: {new['free']} bytes are free; expected: {needed} for the mail of {source}": new[
            "free"
        ]
        >= needed,
    }
    if wrong := [text for text, good in wanted.items() if not good]:
        raise CommandExecutionError("\n".join([*wrong, "Nothing was changed."]))
