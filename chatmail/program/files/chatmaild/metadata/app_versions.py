"""What the newest versions of messengers are: a file in the form that Delta Chat's core reads.

The operator's file counts, and without one the file that comes with this package. A file that the
core could not read would silence all news of updates, so the last good one is told instead.
https://github.com/chatmail/core/blob/main/src/appversions.rs
"""

import functools
import json
import logging
from pathlib import Path

from chatmaild.common import atomic_files

OPERATORS = Path("/etc/chatmail/appversions.json")
DEFAULT = Path(__file__).with_name("appversions.json")
# In what systemd makes for this service, StateDirectory=.
LAST_GOOD = Path("/var/lib/chatmail-metadata/appversions.json")

MAX_VERSION = (1 << 32) - 1  # versionInteger is a u32
SOURCE = {"sourceId": str, "versionInteger": int, "versionString": str, "downloadUrl": str}

log = logging.getLogger(__name__)


def read_versions() -> str | None:
    """Return the versions as JSON on one line, None where there is no file that can be read."""
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
    """Return a file's content on one line, None where it has another form, which is told once."""
    try:
        versions = parse(content)
        # What no other program would read: NaN, and half of a surrogate pair.
        json.dumps(versions, ensure_ascii=False, allow_nan=False).encode()
        return json.dumps(versions)
    except (ValueError, RecursionError) as error:
        problem = "nested too deep" if isinstance(error, RecursionError) else error
        log.error("%s is not used, and what was good before it is: %s", path, problem)
        return None


def parse(content: bytes) -> dict:
    """Return the versions. Raises ValueError that says what was found and what is expected."""
    versions = json.loads(content, object_pairs_hook=_refuse_repetition)
    for client in _list_objects(versions, "the file", "clients"):
        _check(client, "a client", {"clientId": str})
        for source in _list_objects(client, "a client", "sources"):
            _check(source, "a source", SOURCE)
            if not 0 <= source["versionInteger"] <= MAX_VERSION:
                raise ValueError(f"a source's versionInteger is from 0 to {MAX_VERSION}")
    return versions


def _refuse_repetition(pairs):
    """Return an object; the core refuses one that names something twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object names something twice")
    return found


def _list_objects(holder, what, name):
    """Return the list of objects of this name."""
    _check(holder, what, {name: list})
    return holder[name]


def _check(found, what, members):
    """Raise ValueError unless something is an object with members of these types; more may be."""
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
