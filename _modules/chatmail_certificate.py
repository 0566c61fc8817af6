"""Get the relay's certificate from an ACME authority or from the operator's files, and install it.

The package `chatmaild.certificate` does the work. systemd also runs it every day, and certbot runs
it as its deploy hook. A function without `settings` uses the settings that the last converge wrote.
"""

__virtualname__ = "chatmail_certificate"


def __virtual__():
    return __virtualname__


def pair(certificate, key):
    """Check that a server could use a certificate with its key; return the certificate's content.

    certificate, key: paths of PEM files. The chain follows the certificate in its file.
    Returns a dictionary: `names` (sorted), `not_before` and `not_after` (UTC, ISO 8601) and
    `days_left`. Raises CommandExecutionError when a file is missing or unreadable, or when the
    files do not match.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.pair /etc/ssl/relay.pem /etc/ssl/private/relay.key
    """
    return _ask("pair", {}, certificate=certificate, key=key)


def installed():
    """Return the content of the certificate in use as `pair` does, None without a usable pair.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.installed
    """
    return _ask("installed", {})


def differs(certificate, key):
    """Return whether the pair in use has another content than these two files.

    certificate, key: paths of PEM files.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.differs /etc/ssl/relay.pem /etc/ssl/private/relay.key
    """
    return _ask("differs", {}, certificate=certificate, key=key)


def install(certificate, key):
    """Put a pair in use and reload the daemons, unless the pair is in use already.

    certificate, key: paths of PEM files. Returns whether something changed.
    The daemons see the old pair or the new pair, never one file of each. Raises
    CommandExecutionError when the new pair is unusable; the old pair then stays.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.install /etc/ssl/relay.pem /etc/ssl/private/relay.key
    """
    return _ask("install", {}, certificate=certificate, key=key)


def due(settings=None):
    """Return the reason to ask the authority for a certificate, "" without a reason.

    settings: the relay's settings.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.due
    """
    return _ask("due", settings)


def issued_differs():
    """Return whether the authority has issued a certificate and another one is in use.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.issued_differs
    """
    return _ask("issued_differs", {})


def has_account(settings=None):
    """Return whether the machine has an account with the authority.

    settings: the relay's settings.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.has_account
    """
    return _ask("has_account", settings)


def register(settings=None):
    """Make an account with the authority, unless there is one already.

    settings: the relay's settings.
    Raises CommandExecutionError with certbot's message when this fails.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.register
    """
    _ask("register", settings)


def obtain(settings=None):
    """Request a certificate from the ACME authority if one is due, and put it in use.

    settings: the relay's settings.
    Returns {"error": None or a text, "missing": {name: reason}}. `missing` has the names that the
    certificate lacks. When the authority cannot validate some names, the certificate is for the
    other names, if the mail domain is one of these. After a failure the certificate in use stays.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.obtain
    """
    return _ask("obtain", settings)


def renew():
    """Get a certificate from the ACME authority, if one is due, and put it in use.

    Returns {"result", "comment"}: why none was due, or what the authority said. A relay that makes
    its own certificate, or has the operator's, has nothing to do. The orchestration
    `chatmail.fleet.renew` calls this.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.renew
    """
    if __salt__["chatmail_program.settings"]()["tls_mode"] != "acme":
        return {"result": True, "comment": "no authority issues this relay's certificate"}
    reason = due()
    if not reason:
        return {"result": True, "comment": "no certificate is due"}
    error = obtain()["error"]
    return {"result": error is None, "comment": error or f"renewed, because {reason}"}


def new_key(settings=None):
    """Replace the certificate in use by one with a new key; renewals keep the key.

    settings: the relay's settings; those that it runs with if not given.
    Returns what the new certificate says, as `pair` does. Raises CommandExecutionError when the
    authority gives none, or when the key is the operator's; the pair in use stays then.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.new_key
    """
    return _ask("new_key", settings)


def external(settings=None):
    """Put the operator's pair (`tls_external_cert_and_key`) in use if it changed.

    settings: the relay's settings.
    Returns whether something changed. Raises CommandExecutionError when a file is missing or
    unreadable, or when the files do not match. The pair in use then stays, and
    `chatmail_relay.status` shows the failure.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.external
    """
    return _ask("external", settings)


def _ask(command, settings, **arguments):
    """Let the program run a command. Without settings it reads those of the last converge."""
    return __salt__["chatmail_program.call"]("certificate", command, arguments, settings=settings)
