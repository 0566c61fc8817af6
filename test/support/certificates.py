"""Pairs of certificate and key in the directory of a test."""

import ssl
from pathlib import Path

NAMES = ["_chat.example.org", "www._chat.example.org", "mta-sts._chat.example.org"]


def contents(pair):
    return Path(pair["name"]).read_bytes(), Path(pair["key"]).read_bytes()


def belong_together(pair):
    """Fail unless OpenSSL can serve with this pair."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair["name"], pair["key"])


def in_use(module):
    return {"name": str(module["TLS"] / "fullchain.pem"), "key": str(module["TLS"] / "privkey.pem")}


def same(module, paths):
    return contents(in_use(module)) == tuple(Path(path).read_bytes() for path in paths)


# The settings of a relay with an ACME authority, and certbot's output about a name that the
# authority cannot validate.
SETTINGS = {
    "mail_domain": "chat.example.org",
    "tls_names": ["chat.example.org", "www.chat.example.org", "mta-sts.chat.example.org"],
    "tls_mode": "acme",
    "acme_directory": "https://ca.example/dir",
    "acme_challenge": "http-01",
    "acme_email": None,
}
PROBLEM = """\
Saving debug log to /var/log/letsencrypt/letsencrypt.log
Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority \
reported these problems:
  Domain: {name}
  Type:   dns
  Detail: NXDOMAIN looking up A for {name}

Ask for help or search for solutions at https://community.letsencrypt.org.
"""


def names_in_use(salt_modules):
    return salt_modules["chatmail_certificate.installed"]()["names"]
