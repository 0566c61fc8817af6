"""The file `signing.json` beside the keys: which keys sign, which come next, which are retired.

The file is replaced in one step, so a rotation that was stopped at any point can go on.
"""

import contextlib
import datetime
import fcntl
import json
import os

from chatmaild.common.errors import InvalidRequest, OperatorError
from chatmaild.dkim import key_files


def read_state():
    """Return {"selectors": [], "next": [], "retired": []} from signing.json.

    The lists contain keys: {"selector", "algorithm", "since"}. "since" is the time in UTC at which
    the key entered its list. Where an operator's file lacks "since", the modification time of the
    file counts. Raises OperatorError when the file cannot be read.
    """
    path = key_files.DIRECTORY / "signing.json"
    state = {"selectors": [], "next": [], "retired": []}
    try:
        state.update(json.loads(path.read_text()))
        written = _format_moment(path.stat().st_mtime)
    except FileNotFoundError:
        return state
    except (OSError, ValueError) as error:
        raise OperatorError(
            f"{path} cannot be read ({error}): restore it, or remove it and run "
            "`state.apply chatmail.dkim`, which lets the existing keys sign"
        ) from error
    return {name: [{"since": written} | key for key in keys] for name, keys in state.items()}


def save_state(state):
    """Write signing.json. The filter notices this and reads the file again."""
    key_files.write_file(
        key_files.DIRECTORY / "signing.json",
        json.dumps(state, indent=2).encode() + b"\n",
        replace=True,
    )


@contextlib.contextmanager
def locked():
    """Let only one process change keys at a time. Raises OperatorError in a second process."""
    key_files.make_directory()
    handle = os.open(key_files.DIRECTORY, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise OperatorError(
            f"another process changes the keys in {key_files.DIRECTORY}: wait for it, then run "
            "this again"
        ) from error
    finally:
        os.close(handle)


def now():
    """Return the time in UTC, in whole seconds."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def _format_moment(seconds):
    """Return Unix seconds as ISO 8601 text in UTC."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).isoformat()


def days_since(moment):
    """Return how many days ago an ISO 8601 moment was."""
    return (now() - datetime.datetime.fromisoformat(moment)).total_seconds() / 86400


def list_keys():
    """Return the keys of this machine.

    Returns {selector: {"algorithm", "bits", "status", "since", "permissions"}}. The status is
    signing, next (a rotation made the key and waits for DNS), retired (the record of the key stays
    in DNS for a while) or unused. The keys are in this order. "since" is the time at which the
    status began. For an unused key it is the time at which the file was written.
    """
    statuses = {"selectors": "signing", "next": "next", "retired": "retired"}
    listed = {
        key["selector"]: (status, key["since"])
        for name, status in statuses.items()
        for key in read_state()[name]
    }
    files = {
        path.stem
        for path in key_files.DIRECTORY.glob("*.pem")
        if key_files.SELECTOR.fullmatch(path.stem)
    }
    unused = files - set(listed)
    keys = {}
    for selector in [*listed, *sorted(unused)]:
        key, found = key_files.load_key(selector), key_files.key_path(selector).stat()
        status, since = listed.get(selector, ("unused", _format_moment(found.st_mtime)))
        keys[selector] = {
            "algorithm": key_files.find_algorithm(key, selector),
            "bits": getattr(key, "key_size", 256),
            "status": status,
            "since": since,
            "permissions": key_files.describe_permissions(key_files.key_path(selector)),
        }
    return keys


def sign_with(selectors):
    """Sign with exactly these keys from now on. Unlike `rotate`, this does not check DNS.

    selectors: a list of selectors, or one text with commas. Each key makes one signature.
    Returns the list. Other keys that signed until now become retired. The filter uses the new list
    at once. Raises InvalidRequest for an empty list, and OperatorError for a missing key.
    """
    names = selectors.split(",") if isinstance(selectors, str) else list(selectors)
    with locked():
        switch(read_state(), names)
    return names


def switch(state, names):
    """Write signing.json so that exactly the named keys sign."""
    if not names:
        raise InvalidRequest("name at least one selector: a relay always signs")
    since = now().isoformat()
    signing = {key["selector"]: key for key in state["selectors"]}
    fresh = {
        name: {
            "selector": name,
            "algorithm": key_files.find_algorithm(key_files.load_key(name), name),
            "since": since,
        }
        for name in names
    }
    retired = [key | {"since": since} for name, key in signing.items() if name not in fresh]
    retired += [key for key in state["retired"] if key["selector"] not in fresh]
    save_state(
        {
            "selectors": [signing.get(name, fresh[name]) for name in names],
            "next": [key for key in state["next"] if key["selector"] not in fresh],
            "retired": retired,
        }
    )
