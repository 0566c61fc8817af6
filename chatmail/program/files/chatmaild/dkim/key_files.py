"""The private keys on this machine. Each is a PEM file that only root and the filter can read."""

import grp
import itertools
import os
import re
import stat
import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from chatmaild.common import atomic_files
from chatmaild.common.errors import InvalidRequest, OperatorError

DIRECTORY = Path("/etc/chatmail/dkim")
# The group of the filter, which signs. The part chatmail/host makes this group.
GROUP = "chatmail-dkim"
# The algorithms by the names that signatures use (RFC 6376 section 3.3, RFC 8463 section 3). The
# value is the first letter of a selector for this algorithm.
ALGORITHMS = {"rsa-sha256": "r", "ed25519-sha256": "e"}
RSA_BITS = (2048, 3072, 4096)
# A selector is one DNS label here. RFC 6376 allows dots too, but no relay needs them.
SELECTOR = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def key_path(selector):
    """Return the path of a selector's private key. Raises InvalidRequest for a bad selector."""
    if not SELECTOR.fullmatch(str(selector)):
        raise InvalidRequest(
            f"{selector!r} is no selector: use up to 63 lower-case letters, digits and hyphens"
        )
    return DIRECTORY / f"{selector}.pem"


def write_file(path, content, replace=False):
    """Write an atomic file that belongs to the filter's group.

    replace: allow the file to exist. Without it, an existing file raises OperatorError, because a
    key must not be overwritten.
    """
    owner = 0, _find_group()
    make_directory()
    try:
        atomic_files.replace(
            path, content, mode=0o640, owner=owner, durable=True, exclusive=not replace
        )
    except FileExistsError as error:
        raise OperatorError(
            f"{path} exists already: a key is never overwritten; choose another selector"
        ) from error


def _find_group():
    """Return the number of the filter's group."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError as error:
        raise OperatorError(
            f"group {GROUP} does not exist: run `state.apply chatmail.host` first"
        ) from error


def make_directory():
    """Make the directory of the keys, if no converge has made it yet."""
    if not DIRECTORY.is_dir():
        DIRECTORY.mkdir(mode=0o750, parents=True)
        os.chown(DIRECTORY, 0, _find_group())


def load_key(selector):
    """Return the private key of a selector. Raises OperatorError."""
    path = key_path(selector)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise OperatorError(
            f"{path} is missing: restore it from a backup, or remove {selector} from "
            f"{DIRECTORY / 'signing.json'} and run `state.apply chatmail.dkim` for a new key"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise OperatorError(
            f"{path} holds no unencrypted private key in PEM form: restore it from a backup"
        ) from error
    find_algorithm(key, selector)
    return key


def find_algorithm(key, selector):
    """Return the algorithm of a key. Raises OperatorError for a key that DKIM does not know."""
    if isinstance(key, rsa.RSAPrivateKey):
        return "rsa-sha256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519-sha256"
    raise OperatorError(
        f"{key_path(selector)} holds a key that DKIM does not know: expected RSA or Ed25519"
    )


def describe_permissions(path):
    """Return mode, owner and group of a file as one text, such as 0640 root:chatmail-dkim."""
    found = path.stat()
    try:
        group = grp.getgrgid(found.st_gid).gr_name
    except KeyError:
        group = str(found.st_gid)
    owner = "root" if found.st_uid == 0 else str(found.st_uid)
    return f"{stat.S_IMODE(found.st_mode):04o} {owner}:{group}"


def protect(selector):
    """Set owner and permissions of a private key: 0640 root:chatmail-dkim.

    Returns the permissions in the form that `list` shows. Raises OperatorError without such a key.
    """
    path = key_path(selector)
    try:
        os.chown(path, 0, _find_group())
        os.chmod(path, 0o640)
    except FileNotFoundError as error:
        raise OperatorError(f"{path} is missing: there is no such key") from error
    return describe_permissions(path)


def choose_selector(algorithm):
    """Return a selector for a new key: the algorithm's letter and the day, such as r20261122.

    algorithm: rsa-sha256 or ed25519-sha256.
    A number follows when that selector has a key already, such as r20261122-2.
    """
    if algorithm not in ALGORITHMS:
        raise InvalidRequest(
            f"algorithm {algorithm!r} is not known: use one of {', '.join(ALGORITHMS)}"
        )
    day = ALGORITHMS[algorithm] + time.strftime("%Y%m%d", time.gmtime())
    names = itertools.chain([day], (f"{day}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not key_path(name).exists())


def generate(selector=None, algorithm="rsa-sha256", bits=2048):
    """Make a private key. The filter does not use it before `sign_with` or a rotation.

    selector: one DNS label; by default the algorithm's letter and the day, such as r20261122.
    algorithm: rsa-sha256 or ed25519-sha256.
    bits: 2048, 3072 or 4096; only for RSA.
    Returns {"selector", "algorithm", "path"}. An existing key is never overwritten.
    Raises InvalidRequest for a bad argument, and OperatorError for a selector that has a key.
    """
    if bits not in RSA_BITS:
        raise InvalidRequest(f"bits {bits!r} are not possible: use 2048, 3072 or 4096")
    name = choose_selector(algorithm)
    path = key_path(selector or name)
    if algorithm == "rsa-sha256":
        key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    else:
        key = ed25519.Ed25519PrivateKey.generate()
    write_file(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return {"selector": path.stem, "algorithm": algorithm, "path": str(path)}
