"""Keep DNS what the relay needs: publish the records, and see that the world gets them."""

import time

from salt.exceptions import CommandExecutionError

__virtualname__ = "chatmail_dns"

# Seconds between two looks at the name servers.
PAUSE = 5


def __virtual__():
    return __virtualname__


def published(name):
    """Make DNS hold every record of the relay, through `dns:server` or `dns:hook` of the pillar.

    name: free, a sentence about the result.
    Changes are {"<name> <type>": {"old": values, "new": values}}; records of others stay.
    """
    if __opts__["test"] and not __salt__["chatmail_program.installed"]("dns"):
        return _await_program(name)
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
    if __opts__["test"] and not __salt__["chatmail_program.installed"]("dns"):
        return _await_program(name)
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


def _await_program(name):
    """Return what a dry run says before the program is there."""
    comment = "The records can be compared once the program is installed (chatmail.program)."
    return _result(name, None, comment, {})


def _result(name, result, comment, changes):
    return {"name": name, "result": result, "comment": comment, "changes": changes}
