"""Retention: what is past its time goes, full mailboxes shrink, and a report says what is left.

The timers run the same program each night, and Dovecot when a mailbox is nearly full
(`chatmaild.retention`).
"""

__virtualname__ = "chatmail_expire"

# What the last converge wrote.
SETTINGS = "/etc/chatmail/relay.json"


def __virtual__():
    return __virtualname__


def run(test=None, config=SETTINGS):
    """Remove what is past its time, cut full mailboxes, and report what is left.

    test: True only counts what would go; Salt's own `test` setting when not given.
    config: path of the relay's settings.

    Returns `removed` (messages by reason `old`, `large`, `over_quota`; mailboxes: `inactive`;
    directories: `empty`), `removed_bytes` of the messages, `removed_notifications` (of addresses
    that have no mailbox any more; none when `test`), `passed_over` (entries by cause) and `report`
    (as `report` returns it, of what is left). No address is in it.

    Raises CommandExecutionError without readable settings, or while another run is under way.

    CLI Example:

    .. code-block:: bash

        salt '*' chatmail_expire.run test=True
    """
    if test is None:
        test = __opts__.get("test", False)
    return _ask("run", config, test=bool(test))


def quota(path, target=None, config=SETTINGS):
    """Cut one mailbox, oldest message first, down to a size.

    path: the address, or the absolute path of its directory in `mailboxes_dir`.
    target: bytes to keep at most, as Dovecot's quota counts them; 70 % of `max_mailbox_size`
        when not given. Nothing that arrived within 24 hours goes, so more may stay.
    config: path of the relay's settings.

    Returns `before` and `after` (bytes), and `removed`, `removed_bytes`, `passed_over` as `run`.

    Raises CommandExecutionError for a path that is no mailbox of this relay.

    CLI Example:

    .. code-block:: bash

        salt relay1 chatmail_expire.quota abcdefghi@chat.example.org 300000000
    """
    return _ask("quota", config, path=path, target=target)


def remove(address, config=SETTINGS):
    """Remove one mailbox, whatever its age, and the notifications that wait for its devices.

    address: the address, or the absolute path of its directory in `mailboxes_dir`.
    config: path of the relay's settings.

    Returns `removed` (False if there was no such mailbox) and `pending` (notifications removed).

    Raises CommandExecutionError for what is no address of this relay or no directory.

    CLI Example:

    .. code-block:: bash

        salt relay1 chatmail_expire.remove abcdefghi@chat.example.org
    """
    return _ask("remove", config, address=address)


def report(config=SETTINGS):
    """Count addresses and mail.

    config: path of the relay's settings.

    Returns `accounts` (`all`, `ci` for those whose name begins with `ci-`, `user` for the rest),
    `accounts_active` (of `user`, by days since the last login), `storage_bytes` (`messages`,
    `extra`, `total`: on disk), `messages_bytes` and `messages_count` (by least size in bytes).
    No address is in it, so it may go into the mine.

    Raises CommandExecutionError without readable settings.

    CLI Example:

    .. code-block:: bash

        salt '*' chatmail_expire.report
    """
    return _ask("report", config)


def _ask(command, config, **arguments):
    return __salt__["chatmail_program.call"]("retention", command, arguments, settings=config)
