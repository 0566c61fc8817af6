"""Exchange messages with other relays. The runner `chatmail_fleet.ping` on a master calls this.

A run has a token. Each relay makes the address `<token>@<its domain>`, which exists only meanwhile,
so each relay knows the addresses of the others. No address and no password passes the master. The
package `chatmaild.ping` does the work. All functions raise CommandExecutionError on a machine that
is not a relay yet, and SaltInvocationError for another token.
"""

__virtualname__ = "chatmail_ping"
__func_alias__ = {"open_": "open"}


def __virtual__():
    return __virtualname__


def open_(token):
    """Make the address of a run. After half an hour the relay itself removes it.

    token: 16 random characters of a-z and 0-9.
    Returns {"domain": the part of the address after the @}. Raises CommandExecutionError when the
    address exists, and when `mail: false` stops mail.

    CLI Example:

    .. code-block:: bash

        salt relay1 chatmail_ping.open abcdefghij234567
    """
    return _ask("open", token=token)


def send(token, domains, wait=30):
    """Send an encrypted message to the address of the run at each domain, by each way.

    token: the token of the run. domains: a list of parts after the @, as `open` returns them.
    wait: the longest time in seconds that mail may stay in the queue. After that it is removed.
    Returns `mail` ({"sent": Unix seconds} or {"error"}: one message to all, sent as a user does),
    `left` ({domain: why its mail stayed in the queue}) and `straight` ({domain: {"https", "smtp":
    the seconds until the other relay took a message, or why it did not}}).

    CLI Example:

    .. code-block:: bash

        salt relay1 chatmail_ping.send abcdefghij234567 domains='[relay2.example.org]'
    """
    return _ask("send", token=token, domains=domains, wait=wait)


def seen(token, count, domains, wait=30):
    """Wait until messages of the run have arrived, and say which.

    token: the token of the run. count: the number of messages. domains: a list, as for `send`;
    messages from elsewhere do not count. wait: the longest time in seconds.
    Returns {domain of the sender: {"mail", "https", "smtp": the time of arrival, Unix seconds}}.

    CLI Example:

    .. code-block:: bash

        salt relay2 chatmail_ping.seen abcdefghij234567 3 domains='[relay1.example.org]'
    """
    return _ask("seen", token=token, count=count, domains=domains, wait=wait)


def close(token):
    """Remove the address of a run, with its mail.

    token: the token of the run.
    Returns True, also when there was no such address. Raises CommandExecutionError when something
    of the address is left.

    CLI Example:

    .. code-block:: bash

        salt relay2 chatmail_ping.close abcdefghij234567
    """
    return _ask("close", token=token)


def _ask(command, **arguments):
    return __salt__["chatmail_program.call"]("ping", command, arguments)
