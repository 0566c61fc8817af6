"""Which keys sign, which are the next ones and which are retired: `signing.json` beside the keys.

The file is replaced in one step, so that a rotation stopped anywhere can go on.
"""

import contextlib
import datetime
import fcntl
import json
import os

from chatmaild.common.errors import InvalidRequest, OperatorError
from chatmaild.dkim import key_files


def read_state():
    """Return {"selectors": [], "next": [], "retired": []}, lists of keys, from signing.json.

    Each key is {"selector", "algorithm", "since"}; "since" is when it entered its list, in UTC. A
    file that somebody else wrote may lack it: then the file's own time counts.
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
            "`state.apply chatmail.dkim`, which signs with the keys that it finds"
        ) from error
    return {name: [{"since": written} | key for key in keys] for name, keys in state.items()}


def save_state(state):
    """Write signing.json; the filter reads it again by itself."""
    key_files.write_file(
        key_files.DIRECTORY / "signing.json",
        json.dumps(state, indent=2).encode() + b"\n",
        replace=True,
    )


@contextlib.contextmanager
def locked():
    """Let one process at a time change keys; a second one is told so at once."""
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
    """Return a time of the system's clock as ISO 8601 text in UTC."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).isoformat()


def days_since(moment):
    """Return how many days ago an ISO 8601 moment was."""
    return (now() - datetime.datetime.fromisoformat(moment)).total_seconds() / 86400


def list_keys():
    """List the keys of this machine.

    Returns {selector: {"algorithm", "bits", "status", "since", "permissions"}}. The status is
    signing, next (made for a rotation that waits for DNS), retired (its record stays for a while)
    or unused; the keys stand in this order. "since" is when that status began, for an unused key
    when its file was written.
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
    """Sign from now on with these keys, whether or not DNS has them: `rotate` looks first.

    selectors: list of selectors, or one text with commas; each gets a signature of its own.
    Returns the list. Keys that signed until now count as retired. The filter follows by itself.
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
