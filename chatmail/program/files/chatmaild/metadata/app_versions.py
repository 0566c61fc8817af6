"""The newest versions of messengers, in the form that Delta Chat's core reads.

The operator's file comes first. Without it, the file in this package is used. When the core could
not read the operator's file, apps would get no news of updates. So the last good file is used then.
https://github.com/chatmail/core/blob/main/src/appversions.rs
"""

import functools
import json
import logging
from pathlib import Path

from chatmaild.common import atomic_files

OPERATORS = Path("/etc/chatmail/appversions.json")
DEFAULT = Path(__file__).with_name("appversions.json")
# A copy of the last good file. systemd makes its directory: StateDirectory= of the unit.
LAST_GOOD = Path("/var/lib/chatmail-metadata/appversions.json")

MAX_VERSION = (1 << 32) - 1  # versionInteger is a u32
SOURCE = {"sourceId": str, "versionInteger": int, "versionString": str, "downloadUrl": str}

log = logging.getLogger(__name__)


def read_versions() -> str | None:
    """Return the versions as JSON on one line, None without a readable file."""
    try:
        versions = _check_file(OPERATORS.read_bytes(), OPERATORS)
    except FileNotFoundError:
        return _check_file(DEFAULT.read_bytes(), DEFAULT)
    except OSError as error:
        log.error("%s cannot be read: %s", OPERATORS, error.strerror)
        versions = None
    kept = _read_last_good()
    if versions is None:
        return kept or _check_file(DEFAULT.read_bytes(), DEFAULT)
    if versions != kept:
        _keep(versions)
    return versions


@functools.lru_cache(maxsize=8)
def _check_file(content: bytes, path: Path) -> str | None:
    """Return the content of a file on one line, None for another form. An error is logged once."""
    try:
        versions = parse(content)
        # This refuses NaN and half of a surrogate pair, which other programs cannot read.
        json.dumps(versions, ensure_ascii=False, allow_nan=False).encode()
        return json.dumps(versions)
    except (ValueError, RecursionError) as error:
        problem = "nested too deep" if isinstance(error, RecursionError) else error
        log.error("%s is not used, but the last good one: %s", path, problem)
        return None


def parse(content: bytes) -> dict:
    """Return the versions. Raises ValueError: what was found, and what is expected."""
    versions = json.loads(content, object_pairs_hook=_refuse_repetition)
    for client in _list_objects(versions, "the file", "clients"):
        _check(client, "a client", {"clientId": str})
        for source in _list_objects(client, "a client", "sources"):
            _check(source, "a source", SOURCE)
            if not 0 <= source["versionInteger"] <= MAX_VERSION:
                raise ValueError(f"a source's versionInteger is from 0 to {MAX_VERSION}")
    return versions


def _refuse_repetition(pairs):
    """Return an object. Raises ValueError for a repeated name, which the core refuses."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def _list_objects(holder, what, name):
    """Return the list of this name in an object."""
    _check(holder, what, {name: list})
    return holder[name]


def _check(found, what, members):
    """Raise ValueError unless `found` is an object with these members. It may have more members."""
    if not isinstance(found, dict):
        raise ValueError(f"{what} is {json.dumps(found)[:50]}, and an object is expected")
    for name, kind in members.items():
        value = found.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            expected = {str: "a text", int: "a whole number", list: "a list"}[kind]
            shown = json.dumps(value)[:50] if name in found else "missing"
            raise ValueError(f"{name} of {what} is {shown}, and {expected} is expected")


def _read_last_good():
    try:
        return LAST_GOOD.read_text()
    except (OSError, ValueError):
        return None


def _keep(versions):
    try:
        atomic_files.replace(LAST_GOOD, versions)
    except OSError as error:
        log.error("%s cannot be kept in %s: %s", OPERATORS, LAST_GOOD, error.strerror)
