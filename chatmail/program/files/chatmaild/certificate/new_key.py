"""A new key for the relay, because somebody else may have the old one.

Renewals keep the key, so this is the one way to change it.
"""

import tempfile

from chatmaild.certificate import certbot, installing, self_signed
from chatmaild.common.errors import OperatorError


def replace_key(settings):
    """Put a certificate with a new key in use; return what it says, as `read_pair` does.

    Raises OperatorError when the authority gives none, or when the key is the operator's; the pair
    in use stays.
    """
    if settings["tls_mode"] == "external":
        certificate, key = settings["tls_external_cert_and_key"]
        raise OperatorError(
            f"the key is yours: put a new certificate into {certificate} and its key into {key}; "
            "the relay takes them into use by itself"
        )
    if settings["tls_mode"] == "acme":
        certbot.replace_key(settings)
    else:
        with tempfile.TemporaryDirectory() as directory:
            installing.install(*self_signed.make_pair(directory, settings["tls_names"]))
    return installing.describe_installed()
