"""See, block and delete the addresses of this relay, and decide who gets new ones.

What is done on disk is done by `chatmaild.accounts.commands` as the user of the mail, with the
same rules as at login. Requests go to it by standard input, where nobody else on the machine sees
them. No function returns a password or its hash.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "chatmail_accounts"
__func_alias__ = {"list_": "list"}

MAIL_USER = "vmail"
# While it exists, no address is made. What the pillar keeps there begins with this.
NOCREATE = Path("/etc/chatmail-nocreate")
MANAGED = "Managed by the chatmail formula"
# doveadm(1) exits with it when Dovecot does not run (EX_TEMPFAIL, sysexits.h).
NOT_RUNNING = 75
# Seconds that sessions get to end; they take a fraction of one.
DISCONNECT_SECONDS = 10


def __virtual__():
    return __virtualname__


def list_():
    """Return all addresses of this relay, sorted.

    Raises CommandExecutionError on a machine that is no relay yet, as all functions here do.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.list
    """
    return _administer("list")


def count():
    """Return how many addresses there are: {"addresses", "blocked"}. It tells nothing of whose.

    CLI Example:

    .. code-block:: bash

        salt '*' chatmail_accounts.count
    """
    return _administer("count")


def info(address):
    """Return what there is to know of an address, but for its password.

    A dictionary: `address`, `blocked`, `last_login` (the day, UTC; the relay knows none finer),
    `messages` and `bytes` (on disk, all folders), `devices` (how many are woken by push).
    Raises CommandExecutionError for what is no address, or one that does not exist.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.info abcdefghi@chat.example.org
    """
    return _administer("info", address=address)


def block(address):
    """Let an address neither log in, nor send, nor receive, and end its sessions.

    What it has stays, until it expires for want of a login. Returns {"changed": False where it was
    blocked already, "disconnected": sessions that were ended}. Raises CommandExecutionError as
    `info`, and where a session does not end.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.block abcdefghi@chat.example.org
    """
    changed = _administer("block", address=address)
    return {"changed": changed, "disconnected": _disconnect(address)}


def unblock(address):
    """Give a blocked address its old password again.

    Returns {"changed": False where it was not blocked}. Raises CommandExecutionError as `info`, and
    where somebody emptied the password file by hand, so that nothing is left to give.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.unblock abcdefghi@chat.example.org
    """
    return {"changed": _administer("unblock", address=address)}


def delete(address):
    """Delete an address with its mail, its device tokens and pending pushes, and end its sessions.

    Where registration is open, the next login with that address makes it anew, with an empty
    mailbox; to keep somebody out, block the address instead.
    Returns {"removed": True, "disconnected", "pending": notifications dropped}. Raises
    CommandExecutionError as `block`.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.delete abcdefghi@chat.example.org
    """
    disconnected = block(address)["disconnected"]
    return {"disconnected": disconnected, **__salt__["chatmail_expire.remove"](address)}


def nocreate(state):
    """Stop the making of new addresses at once, or let it go on; existing ones work on.

    state: on or off. It holds until the other is said, also over a `state.apply`; a stop that the
    pillar says (`registration: closed`) can only be ended there.
    Returns {"nocreate": whether it is on now, "changed"}. Raises SaltInvocationError for another
    state, CommandExecutionError where the pillar keeps the stop.

    CLI Example:

    .. code-block:: bash

        salt '*' chatmail_accounts.nocreate on
    """
    # YAML makes booleans of the two words.
    wanted = {"on": True, "off": False}.get(state, state)
    if not isinstance(wanted, bool):
        raise SaltInvocationError(f"state: {state!r}, allowed is on or off")
    found = NOCREATE.read_text() if NOCREATE.exists() else None
    if not wanted and found is not None:
        if found.startswith(MANAGED):
            raise CommandExecutionError(
                "the pillar keeps new addresses off (registration: closed, or nocreate: true): "
                "change it there, and apply the state"
            )
        NOCREATE.unlink()
    elif wanted and found is None:
        descriptor = os.open(NOCREATE, os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(descriptor, b"By chatmail_accounts.nocreate.\n")
        os.close(descriptor)
    return {"nocreate": wanted, "changed": wanted is (found is None)}


def invite(uses=1, days=7, note=""):
    """Make an invitation, by which addresses are made where registration is `invite`.

    uses: addresses that it makes. days: how long it holds. note: shown by `invites`.
    Returns `link` (a page with the code, for people), `code` (what an app scans or opens), `id`
    (for `revoke`), `uses` and `until` (a day, UTC). Link and code hold the token, which is shown
    this one time: the relay keeps its hash only. A master keeps what functions return in its job
    cache. Raises CommandExecutionError for what is not allowed, and where registration is not
    `invite`.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.invite uses=3 days=14 note='choir'
    """
    return _administer("invite", uses=uses, days=days, note=note)


def invites():
    """Return the invitations that hold, {id: {"uses" left, "until" day, "note"}}, soonest first.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.invites
    """
    return _administer("invites")


def revoke(id):
    """Withdraw an invitation. Addresses that it has made stay.

    id: as `invite` and `invites` return it. Returns {"changed": False where there is none}.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.revoke i3f9a0c7be21
    """
    return {"changed": _administer("revoke", identifier=id)}


def _administer(command, **arguments):
    """Have the program do something as the user of the mail; return its result."""
    return __salt__["chatmail_program.call"]("accounts", command, arguments, user=MAIL_USER)


def _disconnect(address):
    """End the IMAP sessions of an address; return how many there were.

    Not by `doveadm kick`: 2.3 refuses it for a hibernated client, which shares a process with
    others, and after it 2.4.1's anvil spins for good once imap-hibernate ends. So clients are woken
    into processes of their own (the block has done it once), and those are ended.
    What is sent over an open SMTP session, the filter refuses.
    """
    pids = first = _sessions(address)
    deadline = time.monotonic() + DISCONNECT_SECONDS
    while pids:
        live = [pid for pid in pids if _process(pid) == "imap"]
        for pid in live:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if not live:
            _administer("wake", address=address)
        pids = _sessions(address)
        if time.monotonic() > deadline:
            raise CommandExecutionError(
                f"{len(pids)} sessions of {address} are still open: `systemctl restart dovecot` "
                "ends those of everybody"
            )
    return len(first)


def _sessions(address):
    """Return the process id of each IMAP session of an address."""
    done = __salt__["cmd.run_all"](
        ["doveadm", "who", "-1", "--", address], python_shell=False, ignore_retcode=True
    )
    if done["retcode"] == NOT_RUNNING:
        return []
    if done["retcode"]:
        raise CommandExecutionError(f"doveadm who: {done['stderr'].strip()}")
    # Below a line of titles: address, protocol, process id, IP address.
    return [int(line.split()[2]) for line in done["stdout"].splitlines()[1:]]


def _process(pid):
    """Return the name of a process, None if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return None
