"""The operator's own certificate and key."""

import time

from chatmaild.certificate.failures import record_failure
from chatmaild.certificate.installing import describe_installed, differs, install
from chatmaild.certificate.summary import read_pair
from chatmaild.common.errors import OperatorError

# The seconds that an operator's program may need to replace first one file and then the other.
PATIENCE = 30


def install_external(settings):
    """Put the operator's pair (`tls_external_cert_and_key`) in use if it changed.

    Returns whether something changed. Raises OperatorError when a file is missing or unreadable,
    or when the files do not match. The pair in use then stays, and `chatmail_relay.status` shows
    the failure.
    """
    try:
        changed = install(*settings["tls_external_cert_and_key"])
    except OperatorError as error:
        record_failure(str(error), {})
        raise
    record_failure(None, {})
    return changed


def install_patiently(settings):
    """Do as `install_external`, but try again while a program may still replace a file."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return install_external(settings)
        except OperatorError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def plan(certificate, key):
    """Return what a converge has to know before it acts: {"given", "differs", "in_use"}.

    given, in_use: the content of the operator's certificate and of the certificate in use.
    differs: whether they are different. Raises OperatorError when the operator's pair is unusable.
    """
    return {
        "given": read_pair(certificate, key),
        "differs": differs(certificate, key),
        "in_use": describe_installed(),
    }
