"""The files that make up a relay, in one table for a move and for an archive.

A move copies each place with all below it, and both machines have the same pillar. An archive has
the files that the table describes further, and a restore goes by the table alone: an archive
decides neither a path outside of it, nor an owner, nor a mode.
"""

import re
from typing import NamedTuple

from chatmaild.accounts import invitations, nocreate
from chatmaild.certificate import certbot
from chatmaild.dkim import key_files
from chatmaild.metadata import app_versions

# Paths as a tar archive names them: from the root of the machine, without the first slash.
DKIM, TLS, CERTBOT = "etc/chatmail/dkim", "etc/chatmail/tls", "etc/letsencrypt"
SIGNING = f"{DKIM}/signing.json"
TURN_SECRET = "etc/chatmail/turn-secret"
NOCREATE = str(nocreate.NOCREATE).lstrip("/")
# A copy must not remove other accounts, which the machine may have for other certificates.
ACCOUNTS = f"{CERTBOT}/accounts"
VERSIONS = f"{CERTBOT}/archive/{certbot.LINEAGE}"
LIVE = f"{CERTBOT}/live/{certbot.LINEAGE}"
RENEWAL = f"{CERTBOT}/renewal/{certbot.LINEAGE}.conf"
# The directories that certbot would make, with their modes. Those below have 0700.
CERTBOT_DIRECTORIES = {
    CERTBOT: 0o755,
    ACCOUNTS: 0o700,
    f"{CERTBOT}/archive": 0o700,
    f"{CERTBOT}/live": 0o700,
    f"{CERTBOT}/renewal": 0o755,
}
QUEUE = "/var/spool/postfix"
# Messages in all their states, and the reports about each of them (qmgr(8), bounce(8)).
QUEUE_DIRECTORIES = (
    *("active", "bounce", "corrupt", "defer", "deferred"),
    *("flush", "hold", "incoming", "maildrop", "trace"),
)


class Place(NamedTuple):
    """A file or a directory of the relay.

    files: what an archive has of it: a pattern of the rest of the path, the mode and the group of
        each kind of file. root owns all of them.
    tls_modes: the values of the setting `tls_mode` with which it belongs to the relay.
    """

    path: str
    files: tuple[tuple[str, int, str], ...] = ()
    tls_modes: tuple[str, ...] = ("acme", "self_signed", "external")


# The directory of an account, below that of all accounts.
ACCOUNT = r"/(?!\.)[\w.:-]+(/(?!\.)[\w.:-]+)*"
KEY_OF_ACCOUNT = (rf"{ACCOUNT}/private_key\.json", 0o400, "root")
REST_OF_ACCOUNT = (rf"{ACCOUNT}/(meta|regr)\.json", 0o644, "root")
CERTIFICATES = (r"/(cert|chain|fullchain)[0-9]{1,6}\.pem", 0o644, "root")
SELECTOR = key_files.SELECTOR.pattern
PLACES = (
    Place(DKIM, ((rf"/({SELECTOR}\.pem|signing\.json)", 0o640, key_files.GROUP),)),
    Place(TURN_SECRET, (("", 0o640, "vmail"),)),
    Place(NOCREATE, (("", 0o644, "root"),)),
    Place(TLS, ((r"/(fullchain|privkey)\.pem", 0o640, "root"),), ("acme", "self_signed")),
    Place(ACCOUNTS, (KEY_OF_ACCOUNT, REST_OF_ACCOUNT), ("acme",)),
    Place(VERSIONS, (CERTIFICATES, (r"/privkey[0-9]{1,6}\.pem", 0o600, "root")), ("acme",)),
    # A restore makes these links.
    Place(LIVE, (), ("acme",)),
    Place(RENEWAL, (("", 0o644, "root"),), ("acme",)),
    # An archive has the invitations as records, as it has the addresses.
    Place(str(invitations.DIRECTORY).lstrip("/")),
    Place(str(app_versions.OPERATORS).lstrip("/")),
    Place("var/lib/chatmail-metadata"),
)
ARCHIVED = [
    (re.compile(re.escape(place.path) + pattern), (mode, group))
    for place in PLACES
    for pattern, mode, group in place.files
]


def list_paths(settings: dict, last: bool) -> list[str]:
    """Return the paths of files and directories that a move copies. Some may not exist.

    last: with the queue, which may be copied only while Postfix runs on neither machine.
    """
    paths = [f"/{place.path}" for place in PLACES if settings["tls_mode"] in place.tls_modes]
    if last:
        paths += [f"{QUEUE}/{name}" for name in QUEUE_DIRECTORIES]
    return sorted([settings["mailboxes_dir"], *paths])


def find_archived(name: str) -> tuple[int, str] | None:
    """Return the mode and the group of a file that an archive may have, None for any other name."""
    return next((rights for pattern, rights in ARCHIVED if pattern.fullmatch(name)), None)
