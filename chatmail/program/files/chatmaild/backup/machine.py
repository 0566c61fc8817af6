"""The keys of a relay on its machine: what an archive has of them, and how each returns."""

import contextlib
import grp
import os
import pwd
import re
import shutil
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatmaild.certificate import certbot, installing
from chatmaild.common import atomic_files, programs
from chatmaild.common.errors import OperatorError
from chatmaild.dkim import signing_state
from chatmaild.inventory.places import (
    ACCOUNTS,
    CERTBOT,
    CERTBOT_DIRECTORIES,
    DKIM,
    LIVE,
    NOCREATE,
    RENEWAL,
    SIGNING,
    TLS,
    TURN_SECRET,
    VERSIONS,
    find_archived,
)

ROOT = Path("/")
PEM_NAMES = ("cert", "chain", "fullchain", "privkey")
# The members that one archive has of this table, at most.
MAX_FILES = 200
# A relay at work changes its keys rarely, and each change takes milliseconds.
ATTEMPTS = 50


def read_settled(read: Callable[[], Any]) -> Any:
    """Return what `read` returned twice in a row: nobody changed the files between the two times.

    So files that belong together are of one moment. Raises OperatorError when they never settle.
    """
    before = read()
    for _ in range(ATTEMPTS):
        after = read()
        if after == before:
            return after
        before = after
    raise OperatorError(f"the files changed {ATTEMPTS} times while they were read: run this again")


def read(settings: dict) -> dict[str, bytes]:
    """Return the keys of this machine by the names in an archive. Raises OSError."""
    paths = [*(ROOT / DKIM).glob("*.pem"), ROOT / SIGNING, ROOT / TURN_SECRET, ROOT / NOCREATE]
    names = {str(path.relative_to(ROOT)): path for path in paths}
    if settings["tls_mode"] != "external":
        names |= {
            f"{TLS}/{name}": ROOT / TLS / name for name in (installing.CERTIFICATE, installing.KEY)
        }
    if settings["tls_mode"] == "acme":
        names[RENEWAL] = ROOT / RENEWAL
        accounts = _accounts(settings).rglob("*.json")
        names |= {str(path.relative_to(ROOT)): path for path in accounts}
        for name in PEM_NAMES:
            # certbot's links in `live` lead to the version in use.
            link = ROOT / LIVE / f"{name}.pem"
            names[f"{VERSIONS}/{os.path.basename(os.path.realpath(link))}"] = link
    found = {}
    for name, path in names.items():
        # Another process may remove a file at this moment, and the next reading shows it.
        if find_archived(name):
            with contextlib.suppress(FileNotFoundError):
                found[name] = path.read_bytes()
    return found


def place(files: dict[str, bytes], settings: dict) -> list[str]:
    """Put the keys of an archive in the place of this machine's; return the names of the files.

    A second call with the same files changes nothing. Raises OSError and OperatorError.
    """
    placed = [*_place_dkim(files), *_place_turn_secret(files)]
    if settings["tls_mode"] == "acme":
        placed += _place_certbot(files, settings)
    if settings["tls_mode"] != "external":
        placed += _place_certificate(files)
    return sorted(placed)


def _write(name, content):
    """Write a file of an archive, unless it has this content, mode and owner."""
    path, (mode, group) = ROOT / name, find_archived(name)
    owner = _number("root", group)
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if (found.st_mode, found.st_uid, found.st_gid) == (0o100000 | mode, *owner) and (
            path.read_bytes() == content
        ):
            return
    atomic_files.replace(path, content, mode=mode, owner=owner, durable=True)


def _number(user, group):
    """Return the numbers of a user and a group on this machine."""
    try:
        return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise OperatorError(f"{error}: run `salt-call state.apply chatmail` first") from None


def _place_dkim(files):
    """Put the signing keys in place. The keys that this machine made for itself go."""
    names = [name for name in files if name.startswith(f"{DKIM}/")]
    if SIGNING not in names:
        return []
    with signing_state.locked():
        for name in sorted(names, key=lambda name: name == SIGNING):
            _write(name, files[name])
        # No mail has the signature of the others, because this relay had no address.
        _remove_others(ROOT / DKIM, [Path(name).name for name in names])
    return names


def _place_turn_secret(files):
    if TURN_SECRET not in files:
        return []
    before = (ROOT / TURN_SECRET).read_bytes() if (ROOT / TURN_SECRET).exists() else None
    _write(TURN_SECRET, files[TURN_SECRET])
    if before != files[TURN_SECRET]:
        _restart_coturn()
    return [TURN_SECRET]


def _restart_coturn():
    """Restart coturn if it runs, because it reads its secret when it starts."""
    programs.run("systemctl", "try-restart", "coturn", check=False)


def _accounts(settings):
    """Return certbot's directory of the accounts with the relay's authority."""
    server = urllib.parse.urlsplit(settings["acme_directory"])
    # An archive never has a path that leaves the directory.
    return ROOT / ACCOUNTS / server.netloc / server.path.strip("/")


def _place_certbot(files, settings):
    """Put the ACME account, the certificate of the authority and its renewal in place."""
    names = [name for name in files if name.startswith(f"{CERTBOT}/")]
    for name in names:
        _make_directory((ROOT / name).parent)
        _write(name, certbot.only_our_hook(files[name]) if name == RENEWAL else files[name])
    versions = [Path(name).name for name in names if name.startswith(f"{VERSIONS}/")]
    if versions:
        live = ROOT / LIVE
        _make_directory(live)
        for version in versions:
            link = re.sub(r"[0-9]+\.pem", ".pem", version)
            _link(live / link, f"../../archive/{certbot.LINEAGE}/{version}")
        _remove_others(ROOT / VERSIONS, versions)
    _forget_other_accounts(names, settings)
    return names


def _forget_other_accounts(names, settings):
    """Remove the ACME accounts that this machine made: certbot would ask which one to use.

    An account that the renewal of another certificate names stays.
    """
    directory = _accounts(settings)
    prefix = str(directory.relative_to(ROOT))
    kept = {Path(name).parent.name for name in names if name.startswith(f"{prefix}/")}
    if not kept:
        return
    renewals = "".join(
        path.read_text(errors="replace") for path in (ROOT / CERTBOT / "renewal").glob("*.conf")
    )
    for account in directory.iterdir():
        if account.is_dir() and account.name not in kept and account.name not in renewals:
            shutil.rmtree(account)


def _place_certificate(files):
    """Put the certificate and its key in use, and let the daemons read them."""
    names = [f"{TLS}/{name}" for name in (installing.CERTIFICATE, installing.KEY)]
    if not set(names) <= set(files):
        return []
    # `install` takes files, and removes such a directory that is not in use.
    aside = ROOT / TLS / "pair-restored"
    aside.mkdir(mode=0o700, exist_ok=True)
    try:
        for name in names:
            atomic_files.replace(aside / Path(name).name, files[name])
        installing.install(aside / installing.CERTIFICATE, aside / installing.KEY)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return names


def _make_directory(path):
    """Make a directory of certbot's and its parents, as certbot makes them."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(mode=CERTBOT_DIRECTORIES.get(str(path.relative_to(ROOT)), 0o700))


def _link(link, target):
    """Let a link lead to a target, in one step."""
    if link.is_symlink() and os.readlink(link) == target:
        return
    draft = link.with_name(f".{link.name}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(link)


def _remove_others(directory, kept):
    for path in directory.glob("*.pem"):
        if path.name not in kept:
            path.unlink()
