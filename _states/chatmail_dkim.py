"""The DKIM keys of a relay: ensures that keys sign its mail, and that no key gets too old."""

import contextlib

from salt.exceptions import SaltException

__virtualname__ = "chatmail_dkim"

PERMISSIONS = "0640 root:chatmail-dkim"
ALGORITHMS = ("rsa-sha256", "ed25519-sha256")


def __virtual__():
    return __virtualname__


def key_present(name, bits=2048):
    """Ensure that an RSA and an Ed25519 key sign, and that only the filter's group reads them.

    name: any text. Only the output shows it.
    bits: 2048, 3072 or 4096, for an RSA key that has to be made.
    The state prefers an unused key in the key directory, such as a restored one, to a new key. It
    never replaces an existing key. Changes name selectors, never a key.

    .. code-block:: yaml

        signing keys:
          chatmail_dkim.key_present:
            - bits: 3072
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "Both keys are there."}
    with _failing(ret):
        if __opts__["test"] and (awaited := __salt__["chatmail_program.awaited"]("dkim")):
            return {**ret, "result": None, "comment": awaited}
        keys = __salt__["chatmail_dkim.list"]()
        readable = [each for each, key in keys.items() if key["permissions"] != PERMISSIONS]
        signing = [each for each, key in keys.items() if key["status"] == "signing"]
        chosen = {
            algorithm: _unused(keys, algorithm)
            for algorithm in ALGORITHMS
            if algorithm not in [keys[each]["algorithm"] for each in signing]
        }
        if not (readable or chosen):
            return ret
        for selector in readable:
            if not __opts__["test"]:
                __salt__["chatmail_dkim.protect"](selector)
            found = keys[selector]["permissions"]
            ret["changes"][f"permissions of {selector}"] = {"old": found, "new": PERMISSIONS}
        if chosen:
            new = signing + [_choose(bits, *each) for each in chosen.items()]
            if not __opts__["test"]:
                __salt__["chatmail_dkim.sign_with"](new)
            ret["changes"]["signing keys"] = {"old": signing, "new": new}
        verb = "would be" if __opts__["test"] else "were"
        ret["comment"] = f"DKIM keys {verb} made, chosen or protected."
        ret["result"] = None if __opts__["test"] else True
    return ret


def _unused(keys, algorithm):
    """Return the selector of the newest unused key of an algorithm, or None."""
    found = [
        (key["since"], selector)
        for selector, key in keys.items()
        if key["status"] == "unused" and key["algorithm"] == algorithm
    ]
    return max(found)[1] if found else None


def _choose(bits, algorithm, unused):
    """Return the selector of the key that will sign: an unused key, or a new one.

    A dry run only chooses the selector and makes no key.
    """
    selector = unused or __salt__["chatmail_dkim.new_selector"](algorithm)
    if not (unused or __opts__["test"]):
        __salt__["chatmail_dkim.generate"](selector, algorithm, bits)
    return selector


def rotated(name, days=None, wait=60, settings=None):
    """Ensure that no key is too old: begin a rotation, continue it, and end the one before.

    name: any text. Only the output shows it.
    days: age at which a key is replaced. The default is the setting `dkim:rotate_after`. Without
        that setting, no rotation begins by itself.
    wait: seconds to wait for the name servers. If they need longer, the next run continues.
    settings: the relay's settings; those that the machine runs with if not given.
    Changes name selectors: `signing keys`, `keys withdrawn` (records and files), and `next keys`
    while the name servers do not have the records of new keys yet. A dry run shows what happens if
    the name servers take and serve the records in time.

    .. code-block:: yaml

        signing keys are rotated in time:
          chatmail_dkim.rotated:
            - days: 90
            - settings: {{ relay | json }}
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "No key is due."}
    with _failing(ret):
        if __opts__["test"] and (awaited := __salt__["chatmail_program.awaited"]("rotation")):
            return {**ret, "result": None, "comment": awaited}
        settings = __salt__["chatmail_program.settings"](settings)
        days = days or settings["dkim"]["rotate_after"]
        # What `rotate` and `withdraw` would do now, if DNS answers and takes the records.
        plan = {"days": days}
        planned = __salt__["chatmail_program.call"]("rotation", "plan", plan, settings)
        if not (planned["next"] or planned["withdraw"]):
            return ret
        if __opts__["test"]:
            _note(ret, "keys withdrawn", planned["withdraw"], [])
            _note(ret, "signing keys", planned["signing"], planned["next"] or planned["signing"])
            ret.update(result=None, comment="DKIM keys would be rotated.")
            return ret
        removed = __salt__["chatmail_dkim.withdraw"](settings)
        _note(ret, "keys withdrawn", removed["withdrawn"], [])
        sentences = [f"Remove from DNS: TXT {record}." for record in removed["remove"]]
        if planned["next"]:
            sentences.append(_rotate(ret, planned, wait, settings))
        ret["comment"] = " ".join(sentences) or "Old keys were withdrawn."
    return ret


def _rotate(ret, planned, wait, settings):
    """Rotate the keys, put the result into the changes, and return a sentence about it."""
    before = __salt__["chatmail_dkim.list"]()
    step = __salt__["chatmail_dkim.rotate"](wait, settings=settings)
    _note(ret, "signing keys", planned["signing"], step["signing"])
    waiting = [record["name"].partition(".")[0] for record in step["publish"]]
    _note(ret, "next keys", [each for each in waiting if each in before], waiting)
    return f"Rotation: {step['comment']}."


def _note(ret, what, old, new):
    """Put old and new selectors into the state's changes if they differ."""
    if sorted(old) != sorted(new):
        ret["changes"][what] = {"old": old, "new": new}


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))
