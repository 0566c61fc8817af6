#!py
"""Ensure that this release's own modules and states are the ones that run, from the first run on.

Salt copies `_modules` and `_states` to a minion only before a highstate. Without this file,
`state.apply chatmail` would fail on a new minion and would run old code after an upgrade. So this
file syncs copies that are missing or differ while the states are rendered, and one state then
reloads the modules. When the copies are current, it costs a few file hashes. Every .sls that uses a
state of our own includes it.
"""

import hashlib
import os


def run():
    """Return the state that reloads the modules, or nothing where the copies were current."""
    if "_ssh_version" in __opts__:  # salt-ssh sends them along each time
        return {}
    if not _stale():
        return {}
    # A state cannot do this: under test=True, saltutil.sync_all only tells what it would sync.
    for kind in ("modules", "states"):
        __salt__[f"saltutil.sync_{kind}"](refresh=False)
    if still := _stale():
        raise RuntimeError(
            f"{', '.join(still)}: not synced. Does the minion's top file or extmod_whitelist "
            "leave out the environment or the modules of this formula?"
        )
    # A state without changes reloads modules only with force_reload_modules
    # (salt.state.State.check_refresh).
    reload_now = {"test.nop": [{"force_reload_modules": True}, {"order": "first"}]}
    return {"chatmail modules and states are of this release": reload_now}


def _stale():
    """Return the files of _modules and _states whose copy is missing or differs."""
    stale = []
    for kind in ("modules", "states"):
        for source in __salt__["cp.list_master"](saltenv=__env__, prefix=f"_{kind}/chatmail_"):
            copy = os.path.join(__opts__["extension_modules"], kind, os.path.basename(source))
            wanted = __salt__["cp.hash_file"](f"salt://{source}", saltenv=__env__)
            if source.endswith(".py") and _digest(copy, wanted["hash_type"]) != wanted["hsum"]:
                stale.append(source)
    return stale


def _digest(path, hash_type):
    """Return the file's hash in hexadecimal, None for a file that is not there."""
    try:
        with open(path, "rb") as stream:
            return hashlib.new(hash_type, stream.read()).hexdigest()
    except FileNotFoundError:
        return None
