"""Get the relay's certificate from an ACME authority or from the operator's files, and install it.

The program does the work (`chatmaild.certificate`); systemd runs it every day, and certbot as its
deploy hook.
"""

__virtualname__ = "chatmail_certificate"


def __virtual__():
    return __virtualname__


def pair(certificate, key):
    """Return what a certificate says, after a look at whether it can be served with its key.

    certificate, key: paths of PEM files; the certificate's own chain follows it.
    A dictionary: `names` (sorted), `not_before` and `not_after` (UTC, ISO 8601), `days_left`.
    Raises CommandExecutionError when a file is missing or unreadable, or they do not match.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.pair /etc/ssl/relay.pem /etc/ssl/private/relay.key
    """
    return _ask("pair", {}, certificate=certificate, key=key)


def installed():
    """Return what the certificate in use says, as `pair` does, None where there is no usable pair.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.installed
    """
    return _ask("installed", {})


def differs(certificate, key):
    """Tell whether another pair than this one is in use.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.differs /etc/ssl/relay.pem /etc/ssl/private/relay.key
    """
    return _ask("differs", {}, certificate=certificate, key=key)


def install(certificate, key):
    """Put a pair in use and reload the daemons, unless it is in use already.

    certificate, key: paths of PEM files. Returns whether something changed.
    The daemons see the old pair or the new one and never one file of each. Raises
    CommandExecutionError when the pair is unusable, and the old one stays.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.install /etc/ssl/relay.pem /etc/ssl/private/relay.key
    """
    return _ask("install", {}, certificate=certificate, key=key)


def due(settings=None):
    """Return why a certificate must be asked of the authority, "" when none must.

    settings: the relay's settings; those that it runs with if not given.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.due
    """
    return _ask("due", settings)


def issued_differs():
    """Tell whether the authority's certificate is there and another one is in use.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.issued_differs
    """
    return _ask("issued_differs", {})


def has_account(settings=None):
    """Tell whether the machine has an account with the authority.

    settings: the relay's settings; those that it runs with if not given.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.has_account
    """
    return _ask("has_account", settings)


def register(settings=None):
    """Make an account with the authority; nothing happens when there is one.

    settings: the relay's settings; those that it runs with if not given.
    Raises CommandExecutionError with certbot's words when it fails.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.register
    """
    _ask("register", settings)


def obtain(settings=None):
    """Get a certificate of the ACME authority if one is due, and put it in use.

    settings: the relay's settings; those that it runs with if not given.
    Returns {"error": None or what failed, "missing": {name: why} of the names that the certificate
    lacks}. Names that cannot be validated do not keep the others from being issued, unless the
    mail domain is among them. Whatever fails, the certificate in use stays.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.obtain
    """
    return _ask("obtain", settings)


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

    settings: the relay's settings; those that it runs with if not given.
    Returns whether something changed. Raises CommandExecutionError when a file is missing or
    unreadable or they do not match; the pair in use stays then, and the failure is kept for
    `chatmail_relay.status`.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_certificate.external
    """
    return _ask("external", settings)


def _ask(command, settings, **arguments):
    """Have the program do something; without settings it reads those that the relay runs with."""
    return __salt__["chatmail_program.call"]("certificate", command, arguments, settings=settings)
