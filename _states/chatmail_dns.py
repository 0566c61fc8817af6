"""The relay's records in DNS: publishes them, and checks that the name servers have them."""

import contextlib
import time

from salt.exceptions import CommandExecutionError, SaltException

__virtualname__ = "chatmail_dns"

# Seconds between two checks of the name servers.
PAUSE = 5


def __virtual__():
    return __virtualname__


def published(name, settings=None):
    """Ensure that DNS holds every record of the relay, by the setting `dns:server` or `dns:hook`.

    name: any text. Only the output shows it.
    settings: the relay's settings; those that the machine runs with if not given.
    Changes are {"<name> <type>": {"old": values, "new": values}}. Other records of the zone stay.

    .. code-block:: yaml

        records of the relay:
          chatmail_dns.published:
            - settings: {{ relay | json }}
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "DNS has every record."}
    with _failing(ret):
        if __opts__["test"] and (awaited := __salt__["chatmail_program.awaited"]("dns")):
            return {**ret, "result": None, "comment": awaited}
        do = "changes" if __opts__["test"] else "publish"
        ret["changes"] = {
            f"{change['name']} {change['type']}": {"old": change["old"], "new": change["new"]}
            for change in __salt__[f"chatmail_dns.{do}"](settings=settings)
        }
        count = len(ret["changes"])
        if count and __opts__["test"]:
            ret.update(result=None, comment=f"{count} record sets would be changed.")
        elif count:
            ret["comment"] = f"{count} record sets were changed."
    return ret


def verified(name, wait=60, settings=None):
    """Ensure that each authoritative server that answers has all required records right.

    name: any text. Only the output shows it.
    wait: seconds in which secondaries may catch up. A dry run does not wait.
    settings: the relay's settings; those that the machine runs with if not given.
    The state changes nothing. It fails, also in a dry run, while a required record is missing or
    wrong. The comment has one line for each of these records.

    .. code-block:: yaml

        records of the relay are in DNS:
          chatmail_dns.verified:
            - wait: 300
            - settings: {{ relay | json }}
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    with _failing(ret):
        if __opts__["test"] and (awaited := __salt__["chatmail_program.awaited"]("dns")):
            return {**ret, "result": None, "comment": awaited}
        end = time.monotonic() + (0 if __opts__["test"] else wait)
        while True:
            ret["result"], ret["comment"] = _look(settings)
            if ret["result"] or time.monotonic() >= end:
                break
            time.sleep(PAUSE)
    return ret


def _look(settings):
    """Return whether DNS is right, and a comment with a line for each record that is not."""
    try:
        found = __salt__["chatmail_dns.check"](settings=settings)
    except CommandExecutionError as error:
        return False, str(error)
    lines = [
        f"{entry['name']} {entry['type']} is {entry['status']}: "
        f"expected {', '.join(entry['expected']) or 'nothing'}, "
        f"found {', '.join(entry['found']) or 'nothing'}; {entry['why']}"
        for entry in found["records"]
        if entry["status"] in ("missing", "wrong")
    ]
    return found["result"], "\n".join(lines) or "DNS has every record."


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))
