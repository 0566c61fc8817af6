"""What cmdeploy puts on a machine, and how to look at it. Nothing here changes the machine."""

import re
from pathlib import Path

from chatmaild.adopt import ini
from chatmaild.common import programs
from chatmaild.common.errors import OperatorError

ROOT = Path("/")
INI = "/usr/local/lib/chatmaild/chatmail.ini"
SYSTEMD = "/etc/systemd/system/"
# The units that cmdeploy writes, also those of its older versions.
UNITS = (
    *("filtermail.service", "filtermail-incoming.service", "filtermail-transport.service"),
    *("doveauth.service", "doveauth-dictproxy.service", "lastlogin.service"),
    *("chatmail-metadata.service", "chatmail-expire.timer", "chatmail-expire.service"),
    *("chatmail-fsreport.timer", "chatmail-fsreport.service", "turnserver.service"),
    *("iroh-relay.service", "mtail.service", "acmetool-redirector.service"),
    *("acmetool-reconcile.timer", "acmetool-reconcile.service"),
    *("tls-cert-reload.path", "tls-cert-reload.service"),
    *("echobot.service", "mta-sts-daemon.service"),
)
# Debian's units that stop for the take-over. Those in the first line are needed no longer.
UNUSED_DAEMONS = ("opendkim.service", "fcgiwrap.socket", "fcgiwrap.service")
DAEMONS = ("postfix.service", "dovecot.service", "nginx.service", *UNUSED_DAEMONS)
# Debian's units that the converge changes, too. `undo` brings them back.
OTHERS = ("unbound.service", "unbound-resolvconf.service", "systemd-resolved.service")
# What is removed. `undo` puts it back.
REMOVED = (
    *(SYSTEMD + unit for unit in UNITS),
    SYSTEMD + "dovecot.service.d/10_restart.conf",
    SYSTEMD + "postfix@.service.d/10_restart.conf",
    SYSTEMD + "opendkim.service.d/10-prevent-memory-leak.conf",
    *("/etc/cron.d/chatmail-metrics", "/etc/cron.d/acmetool", "/etc/cron.d/expunge"),
    *("/etc/apt/preferences.d/pin-dovecot", "/etc/apt/apt.conf.d/00InstallRecommends"),
    "/usr/local/lib/postfix-mta-sts-resolver",
    *("/usr/local/bin/filtermail", "/usr/local/bin/chatmail-turn", "/usr/local/bin/mtail"),
    *("/usr/local/bin/iroh-relay", "/usr/lib/cgi-bin/newemail.py", "/etc/chatmail-version"),
    *("/etc/iroh-relay.toml", "/etc/mtail/delivered_mail.mtail", "/etc/mta-sts-daemon.yml"),
    *("/etc/acme/hooks/nginx", "/usr/lib/acme/hooks/nginx", "/root/from-cmdeploy"),
    # chatmail.ini is in it. While this file is there, `state.apply chatmail` refuses the machine,
    # so a highstate cannot come between the steps of a take-over.
    "/usr/local/lib/chatmaild",
)
# What the converge replaces or removes. `undo` puts it back.
REPLACED = (
    *("/etc/postfix", "/etc/dovecot", "/etc/nginx/nginx.conf", "/etc/unbound"),
    *("/etc/resolv.conf", "/etc/environment", "/etc/chatmail-nocreate"),
)
# Packages that nothing uses after the take-over, and users that cmdeploy made.
UNUSED_PACKAGES = ("opendkim", "opendkim-tools", "fcgiwrap", "acmetool", "python3-virtualenv")
UNUSED_USERS = ("iroh", "echobot", "filtermail")
DKIM_KEY = "/etc/dkimkeys/opendkim.private"
DOVECOT = ("dovecot-core", "dovecot-imapd", "dovecot-lmtpd")
# No package asks a question: configuration files stay as they are. ucf, which Dovecot's packages
# use, knows nothing of apt's options, and asks again for ever without a terminal.
ANSWERS = {
    "DEBIAN_FRONTEND": "noninteractive",
    "UCF_FORCE_CONFFOLD": "1",
}


def here(path):
    """Return a path of the machine."""
    return ROOT / str(path).lstrip("/")


def run(*command, check=True):
    """Run a program; return its output. Raises OperatorError when it fails, unless not `check`."""
    # The last line of apt and dpkg is seldom the cause.
    return programs.run(*command, check=check, lines=8, **ANSWERS).stdout


def read_settings():
    """Return the lines of chatmail.ini, see `ini.parse`. Raises OperatorError."""
    try:
        return ini.parse(here(INI).read_text())
    except (OSError, ValueError) as error:
        raise OperatorError(f"{INI} cannot be read: {error}") from None


def find_fixed_limits():
    """Return the limits that versions before 1.12 had without a line in chatmail.ini."""
    found = {}
    for name, path, limit in (
        ("max_imap_connections", "/etc/dovecot/dovecot.conf", "50000"),
        ("max_smtp_connections", "/etc/postfix/master.cf", "5000"),
    ):
        try:
            text = here(path).read_text()
        except OSError:
            continue
        if re.search(rf"^[^#]*\b{limit}\b", text, re.M):
            found[name] = limit
    return found


def is_ip(domain):
    """Return whether a mail domain is an IPv4 address."""
    return re.fullmatch(r"[0-9.]+", domain) is not None


def find_mailboxes(given):
    """Return the directory of the mailboxes. given: the lines of chatmail.ini."""
    return given.get("mailboxes_dir", "").rstrip("/") or f"/home/vmail/mail/{given['mail_domain']}"


def find_certificate(given):
    """Return (certificate, key), the paths that the machine's daemons read."""
    external = given.get("tls_external_cert_and_key", "").split()
    if len(external) == 2:
        return tuple(external)
    domain = given["mail_domain"]
    own = "/etc/ssl/certs/mailserver.pem"
    if (domain.startswith("_") or is_ip(domain)) and here(own).exists():
        return own, "/etc/ssl/private/mailserver.key"
    return f"/var/lib/acme/live/{domain}/fullchain", f"/var/lib/acme/live/{domain}/privkey"


def unit_states(units):
    """Return {unit: {"enabled", "active"}} of the units that the machine knows."""
    found = {}
    for unit in units:
        enabled = run("systemctl", "is-enabled", unit, check=False).strip()
        active = run("systemctl", "is-active", unit, check=False).strip()
        if enabled not in ("", "not-found") or active == "active":
            found[unit] = {"enabled": enabled, "active": active}
    return found


def dovecot_versions():
    """Return (installed, candidate): the version of dovecot-core, and that of Debian.

    The newest version of a package source counts, because a pin may hide it.
    """
    installed = run("dpkg-query", "-W", "-f", "${Version}", "dovecot-core", check=False)
    lines = run("apt-cache", "madison", "dovecot-core", check=False).splitlines()
    offered = [line.split("|")[1].strip() for line in lines if line.count("|") >= 2]
    return installed, next(iter(offered), "")
