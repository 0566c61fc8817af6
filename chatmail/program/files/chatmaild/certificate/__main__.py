"""What systemd runs every day and when the operator's files change, and certbot as deploy hook."""

import sys

from chatmaild.certificate import certbot
from chatmaild.certificate.external import install_patiently
from chatmaild.certificate.installing import install
from chatmaild.common.errors import OperatorError
from chatmaild.common.settings import load_settings


def main(arguments):
    """Do what is due in the relay's TLS mode; `deploy` is certbot's hook."""
    try:
        settings = load_settings()
        if settings["tls_mode"] == "external" and not arguments:
            install_patiently(settings)
        elif settings["tls_mode"] == "acme" and arguments == ["deploy"]:
            issued = certbot.describe_issued()
            if issued and settings["mail_domain"] in issued["names"]:
                install(*certbot.lineage_paths())
        elif settings["tls_mode"] == "acme" and not arguments:
            outcome = certbot.obtain(settings)
            if outcome["error"]:
                raise OperatorError(outcome["error"])
    except (OSError, OperatorError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
