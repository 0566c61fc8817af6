"""What the Salt module and states chatmail_certificate ask for."""

from chatmaild.certificate import certbot, external, installing, new_key, self_signed, summary
from chatmaild.common.commands import answer

# All commands get the settings; those about files that they name have no use for them.
COMMANDS = {
    "summary": lambda _settings, path: summary.read_certificate(path),
    "pair": lambda _settings, certificate, key: summary.read_pair(certificate, key),
    "installed": lambda _settings: installing.describe_installed(),
    "differs": lambda _settings, certificate, key: installing.differs(certificate, key),
    "install": lambda _settings, certificate, key: installing.install(certificate, key),
    "self_signed": lambda _settings, **wanted: self_signed.ensure(**wanted),
    "due": certbot.find_reason_to_ask,
    "issued_differs": lambda _settings: certbot.issued_differs(),
    "has_account": certbot.has_account,
    "register": certbot.register,
    "acme_plan": certbot.plan,
    "obtain": certbot.obtain,
    "new_key": new_key.replace_key,
    "external_plan": lambda _settings, certificate, key: external.plan(certificate, key),
    "external": external.install_external,
}

if __name__ == "__main__":
    answer(COMMANDS)
