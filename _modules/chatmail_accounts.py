"""See, block and delete the addresses of this relay, and control who gets new addresses.

The package `chatmaild.accounts` does the work on the disk as the user of the mail, with the same
rules as at a login. A request goes to it by standard input, where no other user of the machine can
read it. No function returns a password or its hash. All functions but `nocreate` raise
CommandExecutionError on a machine that is not a relay yet.
"""

__virtualname__ = "chatmail_accounts"
__func_alias__ = {"list_": "list"}

MAIL_USER = "vmail"


def __virtual__():
    return __virtualname__


def list_():
    """Return all addresses of this relay, sorted.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.list
    """
    return _administer("list")


def count():
    """Return the number of addresses, without their names: {"addresses", "blocked"}.

    CLI Example:

    .. code-block:: bash

        salt '*' chatmail_accounts.count
    """
    return _administer("count")


def info(address):
    """Return all that the relay knows about an address, except its password.

    A dictionary: `address`, `blocked`, `last_login` (the day in UTC; the relay stores no time of
    day), `messages` and `bytes` (on disk, all folders), `devices` (the number that push wakes).
    Raises CommandExecutionError for a text that is not an address of this relay, and for an address
    that does not exist.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.info abcdefghi@chat.example.org
    """
    return _administer("info", address=address)


def block(address):
    """Prevent an address from logging in, sending and receiving, and end its sessions.

    Its mail stays until the address expires, because it has no logins any more.
    Returns {"changed": False if the address was blocked already, "disconnected": the number of
    sessions that were ended}. Raises CommandExecutionError as `info`, and when a session does not
    end.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.block abcdefghi@chat.example.org
    """
    changed = _administer("block", address=address)
    # Only root may end the sessions.
    disconnected = __salt__["chatmail_program.call"](
        "accounts", "disconnect", {"address": address, "mail_user": MAIL_USER}
    )
    return {"changed": changed, "disconnected": disconnected}


def unblock(address):
    """Give a blocked address its old password again.

    Returns {"changed": False if the address was not blocked}. Raises CommandExecutionError as
    `info`, and when somebody emptied the password file by hand, so that the old password is lost.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.unblock abcdefghi@chat.example.org
    """
    return {"changed": _administer("unblock", address=address)}


def delete(address):
    """Delete an address with its mail, its device tokens and pending pushes, and end its sessions.

    With open registration, the next login with this address creates it again, with an empty
    mailbox. To keep somebody out, block the address instead.
    Returns {"removed": True, "disconnected": sessions that were ended, "pending": notifications
    that were removed}. Raises CommandExecutionError as `block`.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.delete abcdefghi@chat.example.org
    """
    disconnected = block(address)["disconnected"]
    return {"disconnected": disconnected, **__salt__["chatmail_expire.remove"](address)}


def nocreate(state):
    """Stop the creation of new addresses at once, or allow it again. Existing addresses still work.

    state: on or off. It stays until the next call, also over a `state.apply`. When the pillar stops
    new addresses (`registration: closed`), only a change of the pillar allows them again.
    Returns {"nocreate": the state now, "changed"}. Raises SaltInvocationError for another state,
    and CommandExecutionError when the pillar stops new addresses.

    CLI Example:

    .. code-block:: bash

        salt '*' chatmail_accounts.nocreate on
    """
    return __salt__["chatmail_program.call"]("accounts", "nocreate", {"state": state}, settings={})


def invite(uses=1, days=7, note="", digest=None):
    """Make an invitation, with which people create addresses where registration is `invite`.

    uses: the number of addresses. days: the days until it expires. note: a text that `invites`
    shows. digest: the SHA-256 of a token that the caller has made; see below.
    Returns `link` (a page with the code, for people), `code` (an app scans or opens it), `id` (for
    `revoke`), `uses` and `until` (a day in UTC). Link and code contain the token. The relay keeps
    only its hash, so it is shown this one time. A master keeps the results of functions in its job
    cache. So the runner `chatmail_fleet.invite` makes the token itself and passes its digest only;
    link and code then have {token} in its place. Raises CommandExecutionError for a value that is
    not allowed, and when registration is not `invite`.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.invite uses=3 days=14 note='choir'
    """
    given = {} if digest is None else {"digest": digest}
    return _administer("invite", uses=uses, days=days, note=note, **given)


def invites():
    """Return the valid invitations: {id: {"uses" left, "until" day, "note"}}.

    The one that expires first comes first.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.invites
    """
    return _administer("invites")


def revoke(id):
    """Withdraw an invitation. The addresses that it created stay.

    id: the id that `invite` and `invites` return. Returns {"changed": False without such an
    invitation}.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_accounts.revoke i3f9a0c7be21
    """
    return {"changed": _administer("revoke", identifier=id)}


def _administer(command, **arguments):
    """Let the program do something as the user of the mail; return its result."""
    return __salt__["chatmail_program.call"]("accounts", command, arguments, user=MAIL_USER)
