"""Remove old mail and unused addresses, cut full mailboxes, and report numbers.

The package `chatmaild.retention` does the work. Timers also run it each night, and Dovecot runs it
when a mailbox is nearly full.
"""

__virtualname__ = "chatmail_expire"

# The last converge wrote this file.
SETTINGS = "/etc/chatmail/relay.json"


def __virtual__():
    return __virtualname__


def run(test=None, config=SETTINGS):
    """Remove old mail and unused addresses, cut full mailboxes, and report the rest.

    test: True only counts; by default Salt's own `test` setting.
    config: the path of the relay's settings.

    Returns `removed` (messages by reason: `old`, `large`, `over_quota`; mailboxes: `inactive`;
    directories: `empty`), `removed_bytes` (of the messages), `removed_notifications` (of addresses
    without a mailbox; 0 with `test`), `passed_over` (entries by cause) and `report` (the result of
    `report` for the rest). The result contains no address.

    Raises CommandExecutionError without readable settings, and while another run is at work.

    CLI Example:

    .. code-block:: bash

        salt '*' chatmail_expire.run test=True
    """
    if test is None:
        test = __opts__.get("test", False)
    return _ask("run", config, test=bool(test))


def quota(path, target=None, config=SETTINGS):
    """Remove the oldest messages of one mailbox until it has a size.

    path: the address, or the absolute path of its directory in `mailboxes_dir`.
    target: the largest size in bytes, as Dovecot's quota counts them; by default 70 % of
        `max_mailbox_size`. Messages of the last 24 hours stay, so the mailbox may stay larger.
    config: the path of the relay's settings.

    Returns `before` and `after` (bytes), and `removed`, `removed_bytes`, `passed_over` as `run`.

    Raises CommandExecutionError for a path that is not a mailbox of this relay.

    CLI Example:

    .. code-block:: bash

        salt relay1 chatmail_expire.quota abcdefghi@chat.example.org 300000000
    """
    return _ask("quota", config, path=path, target=target)


def remove(address, config=SETTINGS):
    """Remove one mailbox of any age, and the notifications that wait for its devices.

    address: the address, or the absolute path of its directory in `mailboxes_dir`.
    config: the path of the relay's settings.

    Returns `removed` (False if the mailbox did not exist) and `pending` (the number of
    notifications that were removed).

    Raises CommandExecutionError for a text that is not an address of this relay, and when the
    mailbox is not a directory.

    CLI Example:

    .. code-block:: bash

        salt relay1 chatmail_expire.remove abcdefghi@chat.example.org
    """
    return _ask("remove", config, address=address)


def report(config=SETTINGS):
    """Count addresses and mail.

    config: the path of the relay's settings.

    Returns `accounts` (`all`; `ci` for names that begin with `ci-`; `user` for the others),
    `accounts_active` (those of `user`, by days since the last login), `storage_bytes` (`messages`,
    `extra` and `total`, on disk), `messages_bytes` and `messages_count` (by smallest size in
    bytes). The result contains no address, so it may go into Salt's mine.

    Raises CommandExecutionError without readable settings.

    CLI Example:

    .. code-block:: bash

        salt '*' chatmail_expire.report
    """
    return _ask("report", config)


def _ask(command, config, **arguments):
    return __salt__["chatmail_program.call"]("retention", command, arguments, settings=config)
