"""Say what DNS must hold for this relay, compare it with what is there, and publish it.

Three parts: the records (from the settings and what the machine holds), the comparison (asks the
authoritative servers and goes by meaning, not by text) and the publication (RFC 2136 with TSIG, or
a function of the operator's). The program does the work (`chatmaild.dns`).

All functions go by the settings that the machine runs with, and before the first converge by those
of the pillar. So a pillar that the minion has in memory, and that is older or newer than the last
converge, publishes nothing.
"""

from salt.exceptions import CommandExecutionError

__virtualname__ = "chatmail_dns"


def __virtual__():
    return __virtualname__


def records():
    """Return every record that DNS should hold for this relay.

    Returns a list of {"name", "type", "ttl" in seconds, "value", "need", "why"}. Names end with a
    dot; a TXT value is one unsplit text; need is required or recommended. The list is empty for a
    relay that is a bare IP address. Raises CommandExecutionError when no public address is known.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.records
    """
    return _ask("records")


def zone(nameservers=None):
    """Return the records as zone-file text (RFC 1035 section 5), to put into a zone by hand.

    nameservers: list of host names, or one text with commas. With them the text is a whole zone
    for the mail domain, with SOA and NS; without them it is what belongs into an existing zone.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.zone
        salt-call chatmail_dns.zone nameservers=ns1.example.org,ns2.example.org
    """
    return _ask("zone", nameservers=nameservers)


def check(names=None, settings=None):
    """Compare what the authoritative servers answer with what they should, record by record.

    names: list of names, or one text with commas, as `records` writes them; by default all.
    settings: the relay's settings; those that it runs with if not given.
    Returns {"domain", "zone", "result", "servers", "records", "dnssec", "ptr"}: result is true when
    every required record is right; servers says for each what it did; each of the records is
    {"name", "type", "status", "need", "expected", "found", "why"} with the status ok, missing,
    wrong or not needed, and "servers" where only some of them answer otherwise. dnssec and ptr are
    for information. Raises CommandExecutionError when no authoritative server answers.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.check
        salt-call chatmail_dns.check names=www.chat.example.org. --out=json
    """
    return _ask("check", settings, names=names)


def report():
    """Return the outcome of `check` as text for a terminal, what is wrong first.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.report
    """
    return _ask("report")


def changes(names=None, settings=None):
    """Return what `publish` would change.

    names: list of names, or one text with commas, as `records` writes them; by default all.
    settings: the relay's settings; those that it runs with if not given.
    Returns a list of {"zone", "name", "type", "ttl", "old", "new"}: all values of a name and type
    before and after; those of others stay among them. Raises CommandExecutionError when the
    settings name no way to publish or the zone cannot be read.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.changes
    """
    return _ask("changes", settings, names=names)


def publish(names=None, settings=None):
    """Make DNS hold what it should: all changes in one step, or none.

    names: list of names, or one text with commas, as `records` writes them; by default all.
    settings: the relay's settings; those that it runs with if not given.
    Returns the changes made, as `changes` shows them. With the setting `dns:server` they are one
    RFC 2136 update signed with the TSIG key of `dns:tsig_key_file`, whose prerequisites make the
    primary refuse it when the zone changed meanwhile. With `dns:hook` the Salt function named
    there gets the list. Raises CommandExecutionError when anything refuses.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_dns.publish
    """
    settings = __salt__["chatmail_program.settings"](settings)
    if hook := settings["dns"]["hook"]:
        return _call_hook(hook, changes(names, settings))
    return _ask("publish", settings, names=names)


def _call_hook(hook, planned):
    """Hand changes to the operator's function; return them."""
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
