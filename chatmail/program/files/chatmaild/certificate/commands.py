"""The commands of the Salt module and the states chatmail_certificate."""

from chatmaild.certificate import certbot, external, installing, new_key, self_signed, summary
from chatmaild.common.commands import answer

# Each command gets the settings. A command whose arguments name the files does not use them.
COMMANDS = {
    "summary": lambda settings, path: summary.read_certificate(path or settings["tls_certificate"]),
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
