"""Show the DNS records that this relay needs, compare them with DNS, and publish them.

The records follow from the settings, the keys and the ACME account. The comparison asks the
authoritative servers, and compares the meaning of records, not their text. The publication uses
RFC 2136 with TSIG, or a Salt function of the operator. The package `chatmaild.dns` does the work.

All functions use the settings that the relay runs with. Before the first converge they use the
settings of the pillar. So a pillar that is older or newer than the last converge publishes nothing.
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "chatmail_dns"


def __virtual__():
    return __virtualname__


def records():
    """Return every record that DNS should have for this relay.

    Returns a list of {"name", "type", "ttl" in seconds, "value", "need", "why"}. Names end with a
    dot. A TXT value is one text. need is required or recommended. The list is empty for a relay
    without a domain. Raises CommandExecutionError when no public address is known.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.records
    """
    return _ask("records")


def zone(nameservers=None):
    """Return the records as the text of a zone file (RFC 1035 section 5).

    nameservers: a list of host names, or one text with commas. With name servers the text is a
        complete zone of the mail domain, with SOA and NS. Without them the text is the records
        that an operator adds to an existing zone.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.zone
        salt-call chatmail_dns.zone nameservers=ns1.example.org,ns2.example.org
    """
    return _ask("zone", nameservers=nameservers)


def check(names=None, settings=None):
    """Compare the answers of the authoritative servers with the records that the relay needs.

    names: a list of names, or one text with commas, as `records` writes them; by default all.
    settings: the relay's settings; by default those that the relay runs with.
    Returns {"domain", "zone", "result", "servers", "records", "dnssec", "ptr"}.
    result: true when every required record is right.
    servers: {server: "answers", or what the server did instead}.
    records: a list of {"name", "type", "status", "need", "expected", "found", "why"}. The status is
        ok, missing, wrong or not needed. When the servers disagree, the entry has a list "servers"
        too: those that gave this answer.
    dnssec, ptr: for information only.
    Raises CommandExecutionError when no authoritative server answers.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.check
        salt-call chatmail_dns.check names=www.chat.example.org. --out=json
    """
    return _ask("check", settings, names=names)


def report():
    """Return the result of `check` as text for a terminal, with the wrong records first.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.report
    """
    return _ask("report")


def changes(names=None, settings=None):
    """Return the changes that `publish` would make.

    names: a list of names, or one text with commas, as `records` writes them; by default all.
    settings: the relay's settings; by default those that the relay runs with.
    Returns a list of {"zone", "name", "type", "ttl", "old", "new"}. old and new are all values of
    the name and type before and after the change. Values that are not the relay's are in both.
    Raises CommandExecutionError when the settings have no way to publish, or when the zone cannot
    be read.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.changes
    """
    return _ask("changes", settings, names=names)


def publish(names=None, settings=None):
    """Publish the records that the relay needs: all changes in one step, or none.

    names: a list of names, or one text with commas, as `records` writes them; by default all.
    settings: the relay's settings; by default those that the relay runs with.
    Returns the changes that were made, in the form of `changes`. With `dns:server` they are one
    RFC 2136 update, signed with the key of `dns:tsig_key_file`. The update has prerequisites: the
    primary refuses it when the zone has changed meanwhile. With `dns:hook` the named Salt function
    gets the list of changes. Raises CommandExecutionError when the zone cannot be read, or when
    the primary or the hook refuses.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.publish
    """
    settings = __salt__["chatmail_program.settings"](settings)
    if hook := settings["dns"]["hook"]:
        return _call_hook(hook, changes(names, settings))
    return _ask("publish", settings, names=names)


def _call_hook(hook, planned):
    """Call the operator's function with the changes; return the changes."""
    if not planned:
        return planned
    if hook not in __salt__:
        raise CommandExecutionError(
            f"there is no Salt function {hook}: put its module into _modules and sync, or "
            "correct chatmail:dns:hook"
        )
    if __salt__[hook](planned) is False:
        raise CommandExecutionError(f"{hook} answered False: see the minion's log")
    return planned


def _ask(command, settings=None, **arguments):
    settings = __salt__["chatmail_program.settings"](settings)
    return __salt__["chatmail_program.call"]("dns", command, arguments, settings=settings)
