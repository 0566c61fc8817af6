"""Keep DNS what the relay needs: publish the records, and see that the world gets them."""

import time

from salt.exceptions import CommandExecutionError

__virtualname__ = "chatmail_dns"

# Seconds between two looks at the name servers.
PAUSE = 5


def __virtual__():
    # The functions of the same name need dnspython, which the same run may install first.
    return __virtualname__


def published(name):
    """Make DNS hold every record of the relay, through `dns:server` or `dns:hook` of the pillar.

    name: free, a sentence about the result.
    Changes are {"<name> <type>": {"old": values, "new": values}}; records of others stay.
    """
    if "chatmail_dns.publish" not in __salt__:
        return _not_loaded(name)
    try:
        planned = __salt__["chatmail_dns.changes" if __opts__["test"] else "chatmail_dns.publish"]()
    except CommandExecutionError as error:
        return _result(name, False, str(error), {})
    changes = {
        f"{change['name']} {change['type']}": {"old": change["old"], "new": change["new"]}
        for change in planned
    }
    if not changes:
        return _result(name, True, "DNS has every record.", {})
    if __opts__["test"]:
        return _result(name, None, f"{len(changes)} record sets would be changed.", changes)
    return _result(name, True, f"{len(changes)} record sets were changed.", changes)


def verified(name, wait=60):
    """Fail unless every authoritative server that answers has the required records right.

    name: free, a sentence about the result.
    wait: seconds in which secondaries may catch up.
    """
    if "chatmail_dns.check" not in __salt__:
        return _not_loaded(name)
    end = time.monotonic() + (0 if __opts__["test"] else wait)
    while True:
        try:
            good, comment = _checked()
        except CommandExecutionError as error:
            good, comment = False, str(error)
        if good or time.monotonic() >= end:
            return _result(name, good, comment, {})
        time.sleep(PAUSE)


def _checked():
    """Return whether DNS is right, and what is not, one record a line."""
    found = __salt__["chatmail_dns.check"]()
    lines = [
        f"{entry['name']} {entry['type']} is {entry['status']}: "
        f"expected {', '.join(entry['expected']) or 'nothing'}, "
        f"found {', '.join(entry['found']) or 'nothing'}; {entry['why']}"
        for entry in found["records"]
        if entry["status"] in ("missing", "wrong")
    ]
    return found["result"], "\n".join(lines) or "DNS has every record."


def _not_loaded(name):
    """Return what to say while dnspython is not there yet, as in the first dry run."""
    comment = "The records can be compared once dnspython is installed (chatmail.dns)."
    return _result(name, None if __opts__["test"] else False, comment, {})


def _result(name, result, comment, changes):
    return {"name": name, "result": result, "comment": comment, "changes": changes}
