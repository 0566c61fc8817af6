"""Keep the DKIM keys of a relay: that it has some, and that they do not grow old."""

import datetime

from salt.exceptions import CommandExecutionError

__virtualname__ = "chatmail_dkim"

PERMISSIONS = "0640 root:chatmail-dkim"
ALGORITHMS = ("rsa-sha256", "ed25519-sha256")


def __virtual__():
    return __virtualname__


def key_present(name, bits=2048):
    """Make sure that an RSA and an Ed25519 key sign, and that only the filter's group reads them.

    name: free, a sentence about the result.
    bits: 2048, 3072 or 4096, for an RSA key that has to be made.
    A key file that lies unused in the key directory (restored or taken over) is used before a new
    one is made. Existing keys are never replaced.
    """
    if __opts__["test"] and not __salt__["chatmail_program.installed"]("dkim"):
        return _await_program(name)
    try:
        keys = __salt__["chatmail_dkim.list"]()
    except CommandExecutionError as error:
        return _result(name, False, str(error), {})
    signing = [selector for selector, key in keys.items() if key["status"] == "signing"]
    lacking = [
        algorithm
        for algorithm in ALGORITHMS
        if algorithm not in [keys[selector]["algorithm"] for selector in signing]
    ]
    chosen = {algorithm: _unused(keys, algorithm) for algorithm in lacking}
    names = {
        algorithm: selector or __salt__["chatmail_dkim.new_selector"](algorithm)
        for algorithm, selector in chosen.items()
    }
    open_keys = {s: k["permissions"] for s, k in keys.items() if k["permissions"] != PERMISSIONS}
    changes = {
        f"permissions of {selector}": {"old": old, "new": PERMISSIONS}
        for selector, old in open_keys.items()
    }
    if lacking:
        changes["signing keys"] = {"old": signing, "new": signing + list(names.values())}
    if not changes:
        return _result(name, True, "Both keys are there.", {})
    if __opts__["test"]:
        return _result(name, None, "DKIM keys would be made, chosen or protected.", changes)
    for selector in open_keys:
        __salt__["chatmail_dkim.protect"](selector)
    for algorithm, selector in names.items():
        if not chosen[algorithm]:
            __salt__["chatmail_dkim.generate"](selector, algorithm, bits)
    if lacking:
        __salt__["chatmail_dkim.sign_with"](signing + list(names.values()))
    return _result(name, True, "DKIM keys were made, chosen or protected.", changes)


def _unused(keys, algorithm):
    """Return the newest unused key of an algorithm, None where there is none."""
    found = [
        (key["since"], selector)
        for selector, key in keys.items()
        if key["status"] == "unused" and key["algorithm"] == algorithm
    ]
    return max(found)[1] if found else None


def rotated(name, days=None, wait=60):
    """Rotate keys that grew too old, go on with a rotation begun, and end the last one.

    name: free, a sentence about the result.
    days: age at which a key is replaced; by default the setting `dkim:rotate_after`, and without
    that no rotation begins by itself.
    wait: seconds to wait for the name servers; where they need longer, the next run goes on.
    """
    if __opts__["test"] and not __salt__["chatmail_program.installed"]("dkim"):
        return _await_program(name)
    days = days or __salt__["chatmail_relay.settings"]()["dkim"]["rotate_after"]
    keys = __salt__["chatmail_dkim.list"]()
    signing = [selector for selector, key in keys.items() if key["status"] == "signing"]
    begun = [selector for selector, key in keys.items() if key["status"] == "next"]
    old = [selector for selector in signing if days and _age(keys[selector]) >= days]
    gone = __salt__["chatmail_dkim.withdrawn"]()
    if not (begun or old or gone):
        return _result(name, True, "No key is due.", {})
    if __opts__["test"]:
        changes = _change("records to remove", gone, [])
        if begun or old:
            changes |= _change("signing keys", signing, begun or _next_names())
        return _result(name, None, "DKIM keys would be rotated.", changes)
    try:
        removed = __salt__["chatmail_dkim.withdraw"]()
        step = __salt__["chatmail_dkim.rotate"](wait) if begun or old else None
    except CommandExecutionError as error:
        return _result(name, False, str(error), {})
    changes = _change("keys withdrawn", removed["withdrawn"], [])
    comment = [f"Remove from DNS: TXT {record}." for record in removed["remove"]]
    if step:
        comment.append(f"Rotation: {step['comment']}.")
        changes |= _change("signing keys", signing, step["signing"])
    return _result(name, True, " ".join(comment) or "Old keys were withdrawn.", changes)


def _age(key):
    """Return for how many days a key has its status."""
    since = datetime.datetime.fromisoformat(key["since"])
    return (datetime.datetime.now(since.tzinfo) - since).total_seconds() / 86400


def _await_program(name):
    """Return what a dry run says before the program is there."""
    comment = "The keys can be looked at once the program is installed (chatmail.program)."
    return _result(name, None, comment, {})


def _next_names():
    return [__salt__["chatmail_dkim.new_selector"](each) for each in ALGORITHMS]


def _change(what, old, new):
    return {what: {"old": old, "new": new}} if sorted(old) != sorted(new) else {}


def _result(name, result, comment, changes):
    return {"name": name, "result": result, "comment": comment, "changes": changes}
