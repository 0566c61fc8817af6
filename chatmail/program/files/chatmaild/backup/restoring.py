"""How an archive is brought back on a machine.

The archive is read twice. The first time nothing changes, and the end shows that the archive is
complete and ours. The second time the addresses come back, one after another.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from chatmaild.accounts import nocreate, sessions
from chatmaild.backup import addresses, archive, creating, machine, messages
from chatmaild.common import atomic_files
from chatmaild.common.errors import OperatorError
from chatmaild.inventory import places

# These differ from machine to machine.
OF_THE_MACHINE = {
    *("debian_release", "dovecot_version", "iroh_binary", "search_domains"),
    *("settings_digests", "turn_external_ip"),
}
MAX_CREATED = 40  # characters of a time
# New addresses are stopped by this text, so that nobody takes an address before it is back.
STOPPED = "By chatmail_backup.restore, until it is finished.\n"


class Contents(NamedTuple):
    """What an archive has.

    files: the keys, by their names. homeless: the addresses that have mail but no record, because
    they were deleted while the archive was written.
    """

    head: dict[str, Any]
    relay: dict[str, Any]
    files: dict[str, bytes]
    invitations: dict[str, dict]
    addresses: int
    homeless: set[str]


def restore(
    settings: dict,
    path: str,
    identity_file: str,
    sha256: str | None = None,
    merge: bool = False,
    test: bool = False,
) -> dict:
    """Bring the relay of an archive back, as `chatmail_backup.restore` describes.

    Raises OperatorError. Before the first change the text says that nothing was changed.
    """
    with creating.locked(), contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(creating.opened(path))
            expected = sha256 or creating.read_digest(Path(path)) or archive.sha256_of(file)
            digest = creating.check_digest(file, path, expected)
            if not os.path.isfile(identity_file):
                raise OperatorError(f"identity_file: there is no file {identity_file}")
            contents = read_contents(file, identity_file, settings)
            unfinished = _check_machine(settings, digest, merge)
        except OperatorError as error:
            raise OperatorError(f"{error}. Nothing was changed") from None
        counts = {"addresses": contents.addresses, "kept": 0}
        if not test:
            _stop_new_addresses(settings, digest, merge or unfinished)
            machine.place(contents.files, settings)
            counts = _place_addresses(file, identity_file, settings, contents)
            addresses.place_invitations(contents.invitations)
            _finish(contents)
    return {
        **counts,
        "created": contents.head["created"],
        "invitations": len(contents.invitations),
        "files": sorted(contents.files),
        "settings_differ": _compare(contents.relay, settings),
    }


def read_contents(file, identity_file: str, settings: dict) -> Contents:
    """Read an archive to its end and check all of it; return what it has.

    Raises OperatorError for an archive that is damaged, of another relay, or of another format.
    """
    domain = settings["address_domain"]
    small, files, mailed, count = {}, {}, set(), 0
    with archive.decrypted(file, identity_file) as members:
        for member, content in members:
            name = member.name
            if not small:
                small[archive.HEAD] = _check_head(member, content, settings)
            elif name in ("pillar.json", "relay.json", "invitations.json"):
                small[name] = archive.from_json(member, content)
            elif places.find_archived(name) and len(files) < machine.MAX_FILES:
                files[name] = archive.read_all(member, content)
            elif name.startswith("addresses/"):
                for record in addresses.parse(archive.read_all(member, content), domain):
                    mailed.discard(record["address"])
                    count += 1
            elif address := messages.address_of(name, domain):
                # An infinite time, for example, would end the restore in the middle.
                if not -(1 << 40) < member.mtime < 1 << 40:
                    raise OperatorError(f"a message of the archive has the time {member.mtime}")
                mailed.add(address)
            else:
                raise OperatorError(f"the archive has {name[:200]!r}, which no backup has")
    if "invitations.json" not in small:
        raise OperatorError("the archive has no invitations.json, which every backup has")
    invited = addresses.check_invitations(small["invitations.json"])
    relay = small.get("relay.json", {})
    return Contents(small[archive.HEAD], relay, files, invited, count, mailed)


def _check_head(member, content, settings):
    """Return the first member. Raises OperatorError when this machine cannot use the archive."""
    if member.name != archive.HEAD:
        raise OperatorError("this is no backup of a relay: its first member is not backup.json")
    head = archive.from_json(member, content)
    if head.get("format") != archive.FORMAT:
        raise OperatorError(
            f"the archive has format {head.get('format')!r}, expected {archive.FORMAT}: restore it "
            "with the release of the formula that wrote it"
        )
    created = head.get("created")
    if not isinstance(created, str) or not created.isprintable() or len(created) > MAX_CREATED:
        raise OperatorError("the archive has no time of its making in the form of ISO 8601")
    if head.get("domain") != settings["mail_domain"]:
        raise OperatorError(
            f"the archive is of {head.get('domain')!r}, and this relay is "
            f"{settings['mail_domain']}: its addresses would not work here"
        )
    return head


def _check_machine(settings, digest, merge):
    """Return whether a restore of this archive has begun. Raises OperatorError without a way on."""
    with contextlib.suppress(FileNotFoundError):
        begun = creating.RESTORING.read_text().strip()
        if begun != digest:
            raise OperatorError(
                f"the restore of another archive has begun here, with the SHA-256 {begun}: finish "
                f"that one, or remove {creating.RESTORING}"
            )
        return True
    if not merge:
        _refuse_addresses(settings)
    return False


def _refuse_addresses(settings):
    if addresses.has_any(settings):
        raise OperatorError(
            "this relay has addresses already, and a restore is for an empty one: "
            "docs/backup.md says when `merge=True` is safe"
        )


def _stop_new_addresses(settings, digest, merge):
    """Note that a restore has begun, and let nobody create an address before its end."""
    stopped = nocreate.NOCREATE.exists()
    if not stopped:
        atomic_files.replace(nocreate.NOCREATE, STOPPED, mode=0o644)
    try:
        if not merge:
            # A client may have created an address since the last look.
            _refuse_addresses(settings)
    except OperatorError as error:
        if not stopped:
            nocreate.NOCREATE.unlink()
        raise OperatorError(f"{error}. Nothing was changed") from None
    atomic_files.replace(creating.RESTORING, f"{digest}\n", durable=True)


def _place_addresses(file, identity_file, settings, contents):
    """Bring the addresses back, with their mail; return how many came back and how many stayed."""
    counts = {"addresses": 0, "kept": 0}
    domain = settings["address_domain"]
    with (
        archive.decrypted(file, identity_file) as members,
        sessions.acting_as(addresses.MAIL_USER),
    ):
        for member, content in members:
            address = messages.address_of(member.name, domain)
            if member.name.startswith("addresses/"):
                for record in addresses.parse(archive.read_all(member, content), domain):
                    placed = addresses.place(settings, record)
                    counts["addresses" if placed else "kept"] += 1
            elif address and address not in contents.homeless:
                messages.place(settings, address, member, content)
    return counts


def _finish(contents):
    """Write everything to the disk, and allow new addresses again, if they were allowed before."""
    os.sync()
    with contextlib.suppress(FileNotFoundError):
        if nocreate.NOCREATE.read_text() == STOPPED:
            stopped = contents.files.get(places.NOCREATE, b"").decode(errors="replace")
            if stopped and not stopped.startswith(nocreate.MANAGED):
                atomic_files.replace(nocreate.NOCREATE, stopped, mode=0o644)
            else:
                nocreate.NOCREATE.unlink()
    creating.RESTORING.unlink()


def _compare(before, now):
    """Return the names of the settings that the archive has with another value."""
    return sorted(
        name
        for name in (before.keys() & now.keys()) - OF_THE_MACHINE
        if json.dumps(before[name], sort_keys=True) != json.dumps(now[name], sort_keys=True)
    )
