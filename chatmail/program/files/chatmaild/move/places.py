"""The files that make up a relay, as a list of paths that one machine copies from another.

The two machines have the same pillar, so this list is the same on both.
"""

from chatmaild.accounts import invitations, nocreate
from chatmaild.certificate import certbot
from chatmaild.metadata import app_versions

CERTBOT = "/etc/letsencrypt"
# A copy must not remove other accounts, which the machine may have for other certificates.
ACCOUNTS = f"{CERTBOT}/accounts"
# The directories that certbot would make, with their modes.
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


def list_paths(settings: dict, last: bool) -> list[str]:
    """Return the paths of files and directories, with all below them. Some may not exist.

    last: with the queue, which may be copied only while Postfix runs on neither machine.
    """
    paths = [
        settings["mailboxes_dir"],
        "/etc/chatmail/dkim",
        "/etc/chatmail/turn-secret",
        "/var/lib/chatmail-metadata",
        str(app_versions.OPERATORS),
        str(invitations.DIRECTORY),
        str(nocreate.NOCREATE),
    ]
    if settings["tls_mode"] != "external":
        paths.append("/etc/chatmail/tls")
    if settings["tls_mode"] == "acme":
        paths += [
            ACCOUNTS,
            f"{CERTBOT}/archive/{certbot.LINEAGE}",
            f"{CERTBOT}/live/{certbot.LINEAGE}",
            f"{CERTBOT}/renewal/{certbot.LINEAGE}.conf",
        ]
    if last:
        paths += [f"{QUEUE}/{name}" for name in QUEUE_DIRECTORIES]
    return sorted(paths)
