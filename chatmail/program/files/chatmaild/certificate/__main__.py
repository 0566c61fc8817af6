"""The program of chatmail-certificate.service, and certbot's deploy hook.

systemd runs the program every day, and each time the operator's certificate files change.
"""

import sys

from chatmaild.certificate import certbot
from chatmaild.certificate.external import install_patiently
from chatmaild.certificate.installing import install
from chatmaild.common.errors import OperatorError
from chatmaild.common.settings import load_settings


def main(arguments):
    """Do what is due in the relay's TLS mode; return the exit status.

    arguments: none, or `deploy` when certbot calls this program as its deploy hook.
    """
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
