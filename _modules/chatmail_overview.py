"""What a master shows of this relay in one line. The runner `chatmail_fleet` calls this.

No result contains an address or a secret, so all of them may go into Salt's mine.
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "chatmail_overview"

# As many ids of states as a master shows of one relay.
MAX_IDS = 20


def __virtual__():
    return __virtualname__


def status(drift=True, saltenv=None):
    """Check this relay, and look for what a converge would change.

    drift: False leaves out the dry run, which takes some seconds.
    saltenv: the environment of the formula for the dry run, on a canary. A dry run brings the
        modules of its environment, so another one would leave the modules of another release.
    Returns `result` (False when the relay is not healthy, or when a dry run fails), `formula` (the
    release that converged the machine), `health` (the names of the failed steps), `certificate`
    (days left, None without a certificate), `dns` (ok, wrong or not asked), `queue` (messages),
    `addresses`, `disk_free` (percent), `expired` (the last nightly run, UTC), `drift` (the ids of
    states that would change something, None when unknown) and `comment` (what is wrong).
    The exit code is 1 when the relay is not healthy. Raises CommandExecutionError on a machine that
    is not a relay yet.

    CLI Example:

    .. code-block:: bash

        salt relay1 chatmail_overview.status
    """
    relay = __salt__["chatmail_relay.status"]()
    health = __salt__["chatmail_relay.health"]()
    figures = __salt__["chatmail_program.call"]("health", "figures")
    steps = {step["name"]: step["result"] for step in health["steps"]}
    wrong = [f"{each['name']}: {each['comment']}" for each in health["steps"] if _failed(each)]
    changes, failures = _dry_run(saltenv) if drift else (None, [])
    return {
        "result": health["result"] and not failures,
        "formula": __salt__["chatmail_program.settings"]()["formula"],
        "health": [name for name, result in steps.items() if result is False],
        "certificate": (relay["certificate"] or {}).get("days_left"),
        "dns": {True: "ok", False: "wrong", None: "not asked"}[steps.get("dns")],
        "addresses": relay["addresses"],
        **figures,
        "drift": changes,
        "comment": "; ".join([*wrong, *failures]),
    }


def versions():
    """Return the versions on this relay: {"formula", "salt", "debian", a name for each package}.

    CLI Example:

    .. code-block:: bash

        salt '*' chatmail_overview.versions
    """
    found = __salt__["chatmail_relay.status"]()["versions"]
    return {"formula": __salt__["chatmail_program.settings"]()["formula"], **found}


def dns(zone=False, publish=False):
    """Compare DNS with the records that this relay needs, in short.

    zone: True adds `zone`, the records as `chatmail_dns.zone` returns them.
    publish: True first makes the changes that `chatmail_dns.publish` makes.
    Returns `result` (False when a required record is wrong), `domain`, `wrong` (each record with
    what is wrong, also the recommended ones) and `published` (the number of changes). Raises
    CommandExecutionError as `chatmail_dns.check` and `chatmail_dns.publish` do.

    CLI Example:

    .. code-block:: bash

        salt relay1 chatmail_overview.dns
    """
    domain = __salt__["chatmail_program.settings"]()["mail_domain"]
    found = {"result": True, "domain": domain, "wrong": [], "published": 0}
    if not __salt__["chatmail_dns.records"]():
        return {**found, "comment": "a relay without a domain needs no records"}
    if publish:
        found["published"] = len(__salt__["chatmail_dns.publish"]())
    checked = __salt__["chatmail_dns.check"]()
    found["result"] = checked["result"]
    found["wrong"] = [
        f"{each['name']} {each['type']} {each['status']}"
        for each in checked["records"]
        if each["status"] in ("missing", "wrong")
    ]
    found["comment"] = "; ".join(found["wrong"])
    if zone:
        found["zone"] = __salt__["chatmail_dns.zone"]()
    return found


def _failed(step):
    return step["result"] is False


def _dry_run(saltenv):
    """Return the ids of states that would change something, and the failures of a dry run."""
    environment = {"saltenv": saltenv} if saltenv else {}
    try:
        found = __salt__["state.apply"]("chatmail", test=True, **environment)
    except CommandExecutionError as error:
        return None, [f"the dry run failed: {error}"]
    if not isinstance(found, dict):
        # Salt's own words: a render error, or another run that is at work.
        return None, [f"the dry run failed: {' '.join(map(str, found))}"]
    states = sorted(found.values(), key=lambda state: state["__run_num__"])
    changes = [state["__id__"] for state in states if state["result"] is None]
    failed = [state["__id__"] for state in states if state["result"] is False]
    return changes[:MAX_IDS], [f"the dry run failed: {name}" for name in failed[:MAX_IDS]]
