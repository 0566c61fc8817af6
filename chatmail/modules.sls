#!py
"""Ensure that this release's own modules and states are the ones that run, from the first run on.

Salt copies `_modules` and `_states` to a minion only before a highstate. Without this file,
`state.apply chatmail` would fail on a new minion and would run old code after an upgrade. So this
file copies what is missing or differs while the states are rendered, and one state then reloads the
modules. When the copies are current, it costs a few file hashes. Every .sls that uses a state of
our own includes it, itself or through a part that it includes.
"""

import hashlib
import os
import shutil


def run():
    """Return one state, which reloads the modules if their copies were not current."""
    # salt-ssh sends the modules and states along with each call.
    if "_ssh_version" in __opts__:
        return _nop({"name": "they were current"})
    # Salt keeps its list of files for 20 seconds, so a release that has just replaced another one
    # would lack its new files. A master has the list of its minions.
    shutil.rmtree(os.path.join(__opts__["cachedir"], "file_lists", "roots"), ignore_errors=True)
    if not (stale := _stale()):
        return _nop({"name": "they were current"})
    if barred := [source for source in stale if not _is_allowed(source)]:
        raise RuntimeError(
            f"{', '.join(barred)}: not synced. extmod_whitelist or extmod_blacklist in the "
            "minion's configuration leaves them out: allow the modules and states chatmail_*"
        )
    # Not saltutil.sync_modules: it removes the modules of each environment that it does not sync.
    for source in stale:
        __salt__["cp.get_file"](f"salt://{source}", _copy(source), saltenv=__env__, makedirs=True)
    if still := _stale():
        target = __opts__["extension_modules"]
        raise RuntimeError(
            f"{', '.join(still)}: could not be copied to {target}. Check that there is space left "
            "and that Salt may write there, then apply the state again"
        )
    # A state without changes reloads modules only with force_reload_modules
    # (salt.state.State.check_refresh).
    reload_now = {"force_reload_modules": True}, {"order": "first"}
    return _nop({"name": "they are loaded anew"}, *reload_now)


def _nop(*arguments):
    """Return a state that changes nothing; without a state, `state.apply` of this file fails."""
    nop = {"test.nop": list(arguments)}
    return {"chatmail modules and states are of this release": nop}


def _stale():
    """Return the files of _modules and _states whose copy is missing or differs."""
    stale = []
    for kind in ("modules", "states"):
        for source in __salt__["cp.list_master"](saltenv=__env__, prefix=f"_{kind}/chatmail_"):
            wanted = __salt__["cp.hash_file"](f"salt://{source}", saltenv=__env__)
            # A master may list a file for some seconds that is gone.
            if not wanted or not source.endswith(".py"):
                continue
            if _digest(_copy(source), wanted["hash_type"]) != wanted["hsum"]:
                stale.append(source)
    return stale


def _copy(source):
    """Return where the minion has its copy of `_modules/x.py` or `_states/x.py`."""
    return os.path.join(__opts__["extension_modules"], source.removeprefix("_"))


def _is_allowed(source):
    """Tell whether the minion's configuration lets a module be synced."""
    kind, module = source.removeprefix("_").removesuffix(".py").split("/")
    allowed, barred = (__opts__.get(f"extmod_{each}list") or {} for each in ("white", "black"))
    return module in allowed.get(kind, [module]) and module not in barred.get(kind, [])


def _digest(path, hash_type):
    """Return the file's hash in hexadecimal, None for a file that is not there."""
    try:
        with open(path, "rb") as stream:
            return hashlib.new(hash_type, stream.read()).hexdigest()
    except FileNotFoundError:
        return None
