"""Tell the master when a relay needs somebody: a unit is off, the queue grows, the disk fills.

The event has numbers only, no name and no address. It is fired when what is wrong changes, also
when all is well again. A reactor on the master can pass it on (docs/fleet.md). What to do is what
`chatmail_relay.health` says on the relay.
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "chatmail_relay"

# The limits, and whether a value above or below one is wrong. The beacon's configuration can have
# other limits.
LIMITS = {"stopped_units": 0, "certificate_days": 14, "queue": 1000, "disk_free": 10}
BELOW = ("certificate_days", "disk_free")
# Keys that Salt adds to the configuration.
SALTS = {"_beacon_name", "beacon_module", "disable_during_state_run", "enabled", "interval"}

# What was wrong at the last look; at first, nothing.
_told = {"wrong": []}


def __virtual__():
    return __virtualname__


def validate(config):
    """Return whether the configuration is right, and what is wrong."""
    if not isinstance(config, list) or not all(isinstance(each, dict) for each in config):
        return False, "chatmail_relay: expected a list of limits, such as `- queue: 1000`"
    for key, value in _merge(config).items():
        if key in SALTS:
            continue
        if key not in LIMITS:
            return False, f"chatmail_relay: {key}: expected {', '.join(LIMITS)}"
        if type(value) is not int or value < 0:
            return False, f"chatmail_relay: {key}: {value!r}; expected a whole number from 0 on"
    return True, ""


def beacon(config):
    """Return an event if what is wrong has changed since the last look.

    The event is {"wrong": names of figures, and each figure: a number, or None when unknown}. The
    figures are `stopped_units`, `certificate_days`, `queue` (messages) and `disk_free` (percent).
    A machine that is not a relay yet has no events.

    .. code-block:: yaml

        beacons:
          chatmail_relay:
            - interval: 300
            - queue: 5000
    """
    try:
        found = __salt__["chatmail_program.call"]("health", "watched")
    except CommandExecutionError:
        return []
    limits = {**LIMITS, **_merge(config)}
    wrong = [name for name in LIMITS if _is_wrong(name, found[name], limits[name])]
    if wrong == _told["wrong"]:
        return []
    _told["wrong"] = wrong
    return [{"wrong": wrong, **{name: found[name] for name in LIMITS}}]


def _merge(config):
    return {key: value for each in config for key, value in each.items()}


def _is_wrong(name, value, limit):
    if value is None:
        return False
    return value < limit if name in BELOW else value > limit
