"""The operator's own certificate and key."""

import time

from chatmaild.certificate.failures import record_failure
from chatmaild.certificate.installing import describe_installed, differs, install
from chatmaild.certificate.summary import read_pair
from chatmaild.common.errors import OperatorError

# Seconds in which an operator's program may replace first one and then the other file.
PATIENCE = 30


def install_external(settings):
    """Put the operator's pair (`tls_external_cert_and_key`) in use if it changed.

    Returns whether something changed. Raises OperatorError when a file is missing or
    unreadable or they do not match; the pair in use stays then, and the failure is kept for
    `chatmail_relay.status`.
    """
    try:
        changed = install(*settings["tls_external_cert_and_key"])
    except OperatorError as error:
        record_failure(str(error), {})
        raise
    record_failure(None, {})
    return changed


def install_patiently(settings):
    """As `install_external`, but wait for a program that replaces one file after the other."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return install_external(settings)
        except OperatorError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def plan(certificate, key):
    """Return what a converge asks first: {"given", "differs", "in_use"}.

    given, in_use: what the operator's certificate and the one in use say.
    Raises OperatorError when the operator's pair cannot be used.
    """
    return {
        "given": read_pair(certificate, key),
        "differs": differs(certificate, key),
        "in_use": describe_installed(),
    }
