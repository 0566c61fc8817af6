"""The commands of the Salt module chatmail_accounts.

The process runs as the user vmail. Only for `disconnect` and `nocreate` it runs as root.
"""

import contextlib
import datetime
import time
from pathlib import Path

from chatmaild.accounts import invitations, mailboxes, nocreate, sessions
from chatmaild.common.addresses import is_address
from chatmaild.common.commands import answer
from chatmaild.common.errors import OperatorError
from chatmaild.metadata import entries, wake


def home_of(settings: dict, address: str) -> Path:
    """Return the directory of an address. Raises OperatorError when the address does not exist."""
    if not is_address(address, settings["address_domain"]):
        raise OperatorError(
            f"{address!r} is no address of this relay: expected one of a-z, 0-9, '.', '_' and '-' "
            f"at {settings['address_domain']}"
        )
    home = Path(settings["mailboxes_dir"]) / address
    if not (home / "password").exists():
        raise OperatorError(
            f"{address} does not exist: chatmail_accounts.list shows the addresses that do"
        )
    return home


def list_(settings: dict) -> list[str]:
    """Return all addresses, sorted."""
    return sorted(mailboxes.list_addresses(settings))


def count(settings: dict) -> dict[str, int]:
    """Return the number of addresses, and the number of those that are blocked."""
    total = blocked = 0
    for address in mailboxes.list_addresses(settings):
        # The address may expire at this moment.
        with contextlib.suppress(FileNotFoundError):
            blocked += mailboxes.is_blocked(Path(settings["mailboxes_dir"]) / address)
            total += 1
    return {"addresses": total, "blocked": blocked}


def info(settings: dict, address: str) -> dict:
    """Return all that the relay knows about an address, except its password."""
    home = home_of(settings, address)
    found = mailboxes.describe(home)
    return {"address": address, **found, "devices": len(entries.list_tokens(home, time.time()))}


def block(settings: dict, address: str) -> bool:
    """Block an address and wake its clients; return whether the address was not blocked before."""
    changed = mailboxes.block(home_of(settings, address))
    wake_up(settings, address)
    return changed


def unblock(settings: dict, address: str) -> bool:
    """Unblock an address; return whether it was blocked."""
    try:
        return mailboxes.unblock(home_of(settings, address))
    except ValueError as error:
        raise OperatorError(f"{address} cannot be unblocked: {error}") from None


def wake_up(settings: dict, address: str) -> None:
    """Make Dovecot move each hibernated client of an address into a process of its own."""
    for folder in mailboxes.list_folders(home_of(settings, address)):
        wake.touch(folder / "new")


def disconnect(settings: dict, address: str, mail_user: str) -> int:
    """End the IMAP sessions of a blocked address; return how many there were.

    mail_user: the user to whom the mailboxes belong.
    """

    def wake_as_mail_user():
        with sessions.acting_as(mail_user):
            wake_up(settings, address)

    home_of(settings, address)
    return sessions.disconnect(address, wake_as_mail_user)


def invite(settings: dict, uses: int, days: int, note: str, digest: str | None = None) -> dict:
    """Make an invitation; return its id, its link, and the code that an app scans.

    digest: the SHA-256 of a token that the caller has. Link and code then have {token} in its
        place, and the relay never learns the token before somebody uses it.
    """
    if settings["registration"] != "invite":
        raise OperatorError(
            f"registration is {settings['registration']}, so an invitation could not be used: set "
            "chatmail:registration to invite in the pillar, and apply the state"
        )
    now, directory = time.time(), invitations.DIRECTORY
    try:
        if digest is None:
            token = invitations.make(directory, uses, days, note, now)
            identifier = invitations.identifier(token)
        else:
            token = "{token}"
            identifier = invitations.add(directory, digest, uses, days, note, now)
    except ValueError as error:
        raise OperatorError(str(error)) from None
    return {
        "id": identifier,
        "link": f"https://{settings['mail_domain']}/#{token}",
        "code": f"DCACCOUNT:https://{settings['mail_domain']}/new?token={token}",
        "uses": uses,
        "until": _format_day(now + days * invitations.DAY),
    }


def invites(settings: dict) -> dict[str, dict]:
    """Return the valid invitations by id. The relay does not know their tokens."""
    found = invitations.list_valid(invitations.DIRECTORY, time.time())
    return {
        each: {
            "uses": found[each].uses,
            "until": _format_day(found[each].until),
            "note": found[each].note,
        }
        for each in sorted(found, key=lambda each: found[each].until)
    }


def revoke(settings: dict, identifier: str) -> bool:
    """Withdraw an invitation; return whether it existed."""
    return invitations.revoke(invitations.DIRECTORY, str(identifier))


def _format_day(moment):
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).date().isoformat()


COMMANDS = {
    "list": list_,
    "count": count,
    "info": info,
    "block": block,
    "unblock": unblock,
    "disconnect": disconnect,
    "nocreate": lambda _settings, state: nocreate.switch(state),
    "invite": invite,
    "invites": invites,
    "revoke": revoke,
}


if __name__ == "__main__":
    answer(COMMANDS)
