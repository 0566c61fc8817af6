"""The throwaway addresses: made as the accounts service makes them, and removed without a trace."""

import subprocess

from chatmaild.accounts import mailboxes
from chatmaild.accounts.sessions import acting_as
from chatmaild.common.addresses import new_credentials
from chatmaild.common.errors import OperatorError
from chatmaild.health.machine import PATIENCE, list_queue
from chatmaild.health.running import Account, Failed, State
from chatmaild.retention.removal import remove_one

MAIL_USER = "vmail"
# How often a name is drawn until one is free.
ATTEMPTS = 20


def make_pair(state: State) -> str:
    """Make two addresses, also where registration is closed."""
    state.pair = (make_one(state), make_one(state))
    return "two throwaway addresses exist"


def make_one(state: State) -> Account:
    """Make an address with a random name; return it. `remove` removes it. Raises Failed."""
    for _ in range(ATTEMPTS):
        account = Account(*new_credentials(state.settings))
        with acting_as(MAIL_USER):
            made = mailboxes.create(state.settings["mailboxes_dir"], *account)
        if made:
            state.made.append(account)
            return account
    raise Failed(f"{ATTEMPTS} random names were taken; expected: a free one")


def remove(state: State) -> str:
    """Remove the addresses, their mail, their notifications, and what Postfix has of them.

    All their sessions were this program's own, and are closed by now.
    """
    failures = []
    for each in (_remove_queued, _remove_mailboxes):
        try:
            each(state)
        except (OSError, OperatorError, Failed) as error:
            failures.append(str(error))
    if failures:
        raise Failed("; ".join(failures))
    return "no throwaway address is left"


def _remove_mailboxes(state: State) -> None:
    left = []
    for account in state.made:
        try:
            remove_one(state.settings, account.address)
        except (OSError, OperatorError) as error:
            left.append(f"an address stays: {error}")
    if left:
        raise Failed("; ".join(left))


def _remove_queued(state: State) -> None:
    """Remove messages that Postfix has not delivered, so that no bounce is written later."""
    if not state.made:
        return
    own = {account.address for account in state.made}
    queued = [
        message["queue_id"]
        for message in list_queue()
        if own & {message["sender"], *(each["address"] for each in message["recipients"])}
    ]
    if queued:
        subprocess.run(
            ["postsuper", "-d", "-"],
            input="\n".join(queued),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
