"""The relay's settings: the table of all of them, their checks, and what is derived from them.

`KEYS` lists every setting that a pillar can have. `resolve()` checks a pillar against that table
and returns one plain dictionary, the settings, which all templates and services read. `run()` is
what Salt's `py` renderer calls; states and templates call it through `chatmail/settings.jinja`.

`make documents` writes `pillar.example` and `docs/settings.md` from the table.
"""

import contextlib
import copy
import difflib
import hashlib
import ipaddress
import json
import posixpath
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Key(NamedTuple):
    """One setting.

    name: as in the pillar; "group:key" is `key` in the mapping `group`.
    default: as a pillar would have it; `check` turns it into the value to use, except None.
    check: gets the pillar's value, returns the value to use, raises ValueError(what is allowed).
      It is a lambda, because the checks stand below the table.
    meaning: what the setting does, for the documents.
    unit: what a number counts.
    section: the heading in the documents that begins with this key.
    """

    name: str
    default: Any
    check: Callable[[Any], Any]
    meaning: str
    unit: str = ""
    section: str = ""


# Operators of existing relays know these names and defaults.
KEYS = (
    Key(
        "mail_domain",
        None,
        lambda value: mail_domain(value),
        "The part after the @ of every address. This is the only required setting. "
        "`chat.example.org` is a domain: the relay needs DNS records and gets a certificate from "
        "an ACME authority. `_chat.example.org` is a test domain, because its first label starts "
        "with _: the relay makes its own certificate. `13.12.23.42` is an IPv4 address: addresses "
        "look like `user@[13.12.23.42]`, the relay makes its own certificate and signs nothing "
        "with DKIM. Upper case and a final dot are dropped.",
        section="Domain",
    ),
    Key(
        "registration",
        "open",
        lambda value: one_of(value, "open", "invite", "closed"),
        "Who gets a new address. `open`: the first login with an unused address creates it. "
        "`invite`: an invitation from `chatmail_accounts.invite` creates it. `closed`: nobody "
        "gets one. Existing addresses work in all three cases.",
        section="Addresses",
    ),
    Key(
        "nocreate",
        False,
        lambda value: boolean(value),
        "true means the same as `registration: closed`. It is the name that older relays use.",
    ),
    Key(
        "max_registrations_per_hour",
        100,
        lambda value: integer(value, 1, 1_000_000),
        "How many new addresses one client network (IPv4 /24, IPv6 /48) gets: this number at once, "
        "and this number per hour after that. `/new` and logins count separately.",
        unit="addresses per hour",
    ),
    Key(
        "username_min_length",
        9,
        lambda value: integer(value, 1, MAX_LOCAL_PART),
        "Shortest part before the @ of a new address.",
        unit="characters",
    ),
    Key(
        "username_max_length",
        9,
        lambda value: integer(value, 1, MAX_LOCAL_PART),
        "Longest part before the @ of a new address.",
        unit="characters",
    ),
    Key(
        "password_min_length",
        9,
        lambda value: integer(value, 8, 128),
        "Shortest password of a new address.",
        unit="characters",
    ),
    Key(
        "max_load_1m",
        5,
        lambda value: positive_number(value),
        "No new addresses while the load average of the last minute is above this.",
        unit="load average",
    ),
    Key(
        "min_available_memory",
        "200M",
        lambda value: size(value, 0),
        "No new addresses while less memory than this is available.",
        unit="bytes",
    ),
    Key(
        "min_free_disk_space",
        "1G",
        lambda value: size(value, 0),
        "No new addresses while the disk with the mail has less free space than this.",
        unit="bytes",
    ),
    Key(
        "max_user_send_per_minute",
        60,
        lambda value: integer(value, 1, 1_000_000),
        "How many messages an address may send per minute in the long run.",
        unit="messages per minute",
        section="Mail",
    ),
    Key(
        "max_user_send_burst_size",
        10,
        lambda value: integer(value, 1, 1_000_000),
        "How many messages an address may send at once before the limit per minute applies.",
        unit="messages",
    ),
    Key(
        "max_message_size",
        "30M",
        lambda value: size(value, 64 * KIB),
        "Largest message that the relay takes, from its users and from other relays. It must not "
        "be larger than `max_mailbox_size`.",
        unit="bytes",
    ),
    Key(
        "max_mailbox_size",
        "500M",
        lambda value: size(value, MIB),
        "Quota of an address.",
        unit="bytes",
    ),
    Key(
        "mailboxes_dir",
        None,
        lambda value: optional(value, mailboxes_path),
        "The directory of the mailboxes. null: `/home/vmail/mail/<mail_domain>`.",
    ),
    Key(
        "fsync",
        True,
        lambda value: boolean(value),
        "true writes each message to the disk before it counts as delivered. false is for slow "
        "cards: a power failure then loses the mail of the last half minute, and nobody sends it "
        "again.",
    ),
    Key(
        "delete_mails_after",
        20,
        lambda value: integer(value, 1, MAX_DAYS),
        "Messages older than this are deleted.",
        unit="days",
        section="Retention",
    ),
    Key(
        "delete_large_after",
        7,
        lambda value: integer(value, 1, MAX_DAYS),
        "Messages over 200000 bytes are deleted when they are older than this.",
        unit="days",
    ),
    Key(
        "delete_inactive_users_after",
        90,
        lambda value: integer(value, 1, MAX_DAYS),
        "Addresses without a login for this long are deleted, with all their mail.",
        unit="days",
    ),
    Key(
        "max_imap_connections",
        10000,
        lambda value: integer(value, 1, 1_000_000),
        "How many IMAP clients may be connected at once.",
        unit="connections",
        section="Connections",
    ),
    Key(
        "max_smtp_connections",
        1000,
        lambda value: integer(value, 5, 1_000_000),
        "How many SMTP clients may be connected at once. A single client IP gets a fifth of this.",
        unit="connections",
    ),
    Key(
        "disable_ipv6",
        False,
        lambda value: boolean(value),
        "true: the relay does not use IPv6, neither for incoming nor for outgoing connections.",
    ),
    Key(
        "imap_compress",
        False,
        lambda value: boolean(value),
        "true offers IMAP COMPRESS, which saves traffic. A client that uses it cannot hibernate: "
        "it takes more memory and hears of new messages half a second later.",
    ),
    Key(
        "imap_notify",
        True,
        lambda value: boolean(value),
        "A connected client hears of a new message at once, and an idle one takes less memory: the "
        "converge compiles three small objects on this machine, and Dovecot's `imap`, "
        "`imap-hibernate` and `imap-login` run with them. false: they run as Debian ships them, an "
        "active client hears of a message after half a second, an idle one after some "
        "milliseconds more, and idle ones take half as much memory again.",
    ),
    Key(
        "imap_rawlog",
        False,
        lambda value: boolean(value),
        "true records complete IMAP sessions on disk. Use it for debugging only.",
    ),
    Key(
        "acme_email",
        None,
        lambda value: optional(value, email),
        "Contact address of the ACME account. null: none.",
        section="Certificate",
    ),
    Key(
        "acme_directory",
        "https://acme-v02.api.letsencrypt.org/directory",
        lambda value: url(value),
        "Directory of the ACME authority.",
    ),
    Key(
        "acme_challenge",
        "http-01",
        lambda value: one_of(value, "http-01", "dns-01"),
        "How the ACME authority checks that the domain is yours. `http-01`: it asks this machine "
        "on port 80. `dns-01`: it asks your DNS; this needs `dns:server`.",
    ),
    Key(
        "tls_external_cert_and_key",
        None,
        lambda value: optional(value, two_paths),
        "A certificate that you manage yourself: `[/path/to/fullchain.pem, /path/to/key.pem]`. "
        "null: the relay gets or makes its own.",
    ),
    Key(
        "resolver:forwarders",
        [],
        lambda value: ip_addresses(value),
        "Name servers that the relay's own resolver asks. []: it starts at the root servers.",
        section="DNS",
    ),
    Key(
        "resolver:trust_anchors",
        [],
        lambda value: trust_anchors(value),
        "DNSSEC keys that the resolver trusts instead of the root's: DS or DNSKEY records as in a "
        'zone file, such as ". IN DS 20326 8 2 E06D…". []: the root\'s.',
    ),
    Key(
        "dns:addresses",
        None,
        lambda value: optional(value, addresses),
        "Public IP addresses of the relay. Set them for a machine behind NAT. null: the machine's "
        "own public addresses.",
    ),
    Key(
        "dns:server",
        None,
        lambda value: optional(value, server),
        "Primary name server that takes updates by RFC 2136. It needs `dns:tsig_key_file`. null: "
        "the relay sends no updates.",
    ),
    Key(
        "dns:tsig_key_file",
        None,
        lambda value: optional(value, path),
        "File on the relay with the key for `dns:server`, as `tsig-keygen` writes it. null: none.",
    ),
    Key(
        "dns:zone",
        None,
        lambda value: optional(value, domain_name),
        "Zone on `dns:server` that holds the relay's records. null: the relay asks that server.",
    ),
    Key(
        "dns:hook",
        None,
        lambda value: optional(value, salt_function),
        "Salt function, `module.function`, that publishes the records where the DNS provider has "
        "no RFC 2136. null: none.",
    ),
    Key(
        "dns:caa_issuer",
        None,
        lambda value: optional(value, domain_name),
        "Name of the ACME authority in CAA records. null: the relay knows the name of Let's "
        "Encrypt and of a few others.",
    ),
    Key(
        "dkim:rotate_after",
        None,
        lambda value: optional(value, integer, 7, MAX_DAYS),
        "DKIM keys older than this are replaced; this needs `dns:server` or `dns:hook`. null: "
        "only `chatmail_dkim.rotate` replaces them.",
        unit="days",
    ),
    Key(
        "dkim:retire_after",
        14,
        lambda value: integer(value, 3, 365),
        "The DNS record of a replaced DKIM key is kept for this long.",
        unit="days",
    ),
    Key(
        "federation:block",
        [],
        lambda value: domains(value),
        "The relay exchanges no mail with these domains and the names below them. A relay without "
        "a domain is named by its IPv4 address. []: no domain is blocked.",
        section="Federation",
    ),
    Key(
        "federation:allow",
        [],
        lambda value: domains(value),
        "The relay exchanges mail with these domains only. []: with all domains.",
    ),
    Key(
        "federation:private_networks",
        [],
        lambda value: networks(value),
        "Networks that are not part of the public Internet and have relays, in a lab or a closed "
        "network. []: mail goes to public addresses only.",
    ),
    Key(
        "www_folder",
        None,
        lambda value: optional(value, www_folder),
        "Folder with your own web pages. null: the relay shows its built-in pages. `disabled`: it "
        "shows none.",
        section="Web",
    ),
    Key(
        "privacy_postal",
        None,
        lambda value: optional(value, text),
        "Name and postal address of the operator, for the privacy page. null: left out.",
    ),
    Key(
        "privacy_mail",
        None,
        lambda value: optional(value, email),
        "Mail address of the operator, for the web pages and as contact in IMAP METADATA. null: "
        "left out.",
    ),
    Key(
        "privacy_pdo",
        None,
        lambda value: optional(value, text),
        "The data protection officer, for the privacy page. null: left out.",
    ),
    Key(
        "privacy_supervisor",
        None,
        lambda value: optional(value, text),
        "The supervisory authority, for the privacy page. null: left out.",
    ),
    Key(
        "notification_url",
        "https://notifications.delta.chat/notify",
        lambda value: url(value),
        "Service that wakes devices. The relay sends it the opaque token of each device to wake.",
        section="Push",
    ),
    Key(
        "iroh_relay",
        None,
        lambda value: iroh_relay(value),
        "The iroh relay that clients use. null: this relay runs one at `https://<mail_domain>`, "
        "or `http://` with a self-signed certificate. A URL: clients are pointed there and none "
        'runs here. "": none runs here and clients use their default.',
        section="Realtime",
    ),
    Key(
        "iroh_binary:url",
        None,
        lambda value: optional(value, url),
        "A .tar.gz with the program `iroh-relay` in it. A mirror of the default version needs "
        "only this setting. null: version 0.35.0 from GitHub, for x86_64 and aarch64.",
    ),
    Key(
        "iroh_binary:sha256",
        None,
        lambda value: optional(value, sha256),
        "Digest of the program itself, not of the archive. Delta Chat needs version 0.35. null: "
        "the digest of version 0.35.0.",
    ),
    Key(
        "mail",
        True,
        lambda value: boolean(value),
        "false stops and disables Postfix and Dovecot and leaves everything else as it is. Nobody "
        "can send or fetch mail then, and other servers keep their mail for the relay and try "
        "again. `chatmail_move.off` does the same on one machine, without the pillar.",
        section="Operation",
    ),
    Key(
        "metrics_address",
        None,
        lambda value: optional(value, own_listener),
        "Where metrics are served (docs/metrics.md); the port must be 1024 or above. null: "
        "nowhere, and nothing is counted.",
    ),
    Key(
        "backup_recipients",
        [],
        lambda value: recipients(value),
        "Public keys of those who can open the archives of `chatmail_backup.create` "
        "(docs/backup.md): recipients of age, or `ssh-ed25519` keys. The private keys stay off the "
        "relay. []: there are no backups.",
    ),
    Key(
        "clean:purge",
        False,
        lambda value: boolean(value),
        "What `state.apply chatmail.clean` does with mail (all of /home/vmail, mailboxes_dir and "
        "the queue), with keys, with the archives in /var/backups/chatmail/archives and with the "
        "users that own them. true: it deletes them. "
        "false: it keeps them.",
    ),
)

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
# What the last letter of a size means; K, M and G are those of Dovecot and Postfix.
SIZE_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB}

# While this file exists on a machine, mail is off there, whatever the pillar says. So the pillar of
# a relay stays right for the machine that it left. `chatmail_move.off` writes the file.
MAIL_OFF = "/etc/chatmail-mail-off"

# The release of this formula, as in the file FORMULA, which is on no relay.
FORMULA = "2026.11"
# A converge writes the settings here, with the release of its formula.
STORED = "/etc/chatmail/relay.json"

DOVECOT_VERSIONS = {12: "2.3", 13: "2.4"}

# Each is a subpackage of chatmaild and a unit chatmail-<name>, which runs on every relay.
SERVICES = ["accounts", "filter", "transport"]

# The settings that each service reads when it starts. A change of another one does not restart it.
SETTINGS_READ = {
    "accounts": (
        "address_domain",
        "disable_ipv6",
        "form",
        "iroh_relay",
        "mail_domain",
        "mailboxes_dir",
        "max_load_1m",
        "max_registrations_per_hour",
        "min_available_memory",
        "min_free_disk_space",
        "notification_url",
        "password_min_length",
        "registration",
        "tls_mode",
        "username_max_length",
        "username_min_length",
    ),
    "filter": (
        "address_domain",
        "dkim_required",
        "federation",
        "mail_domain",
        "mailboxes_dir",
        "max_message_size",
        "max_user_send_burst_size",
        "max_user_send_per_minute",
    ),
    "metrics": ("metrics_address",),
    "transport": (
        "address_domain",
        "disable_ipv6",
        "federation",
        "hostname",
        "mail_domain",
        "max_message_size",
    ),
}

# All daemons read these files, wherever the certificate comes from.
TLS_CERTIFICATE, TLS_KEY = "/etc/chatmail/tls/fullchain.pem", "/etc/chatmail/tls/privkey.pem"

# The iroh-relay that is known to work, and the SHA-256 of its program by the grain `cpuarch`.
IROH_URL = (
    "https://github.com/n0-computer/iroh/releases/download/v0.35.0/"
    "iroh-relay-v0.35.0-{}-unknown-linux-musl.tar.gz"
)
IROH_SHA256 = {
    "x86_64": "45c81199dbd70f8c4c30fef7f3b9727ca6e3cea8f2831333eeaf8aa71bf0fac1",
    "aarch64": "f8ef27631fac213b3ef668d02acd5b3e215292746a3fc71d90c63115446008b1",
}

# RFC 1035 section 2.3.4 allows 253 characters; the longest name we add is "mta-sts.<domain>".
MAX_DOMAIN = 253 - len("mta-sts.")
# RFC 5321 section 4.5.3.1.1.
MAX_LOCAL_PART = 64
# A hundred years, so that a mistake such as seconds instead of days is noticed.
MAX_DAYS = 36500

TRUST_ANCHOR = re.compile(
    r"[A-Za-z0-9._-]+( +[0-9]+)?( +IN)? +(DS( +[0-9]+){3} +[0-9A-Fa-f ]+|"
    r"DNSKEY( +[0-9]+){3} +[A-Za-z0-9+/= ]+)"
)
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
BECH32_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
AGE_RECIPIENT = re.compile(rf"age1[{BECH32}]{{58}}")
# 51 bytes in base64 (RFC 8709 section 4), and a comment.
SSH_RECIPIENT = re.compile(r"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5[A-Za-z0-9+/]{48}( [ -~]*)?")
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")
# Paths are written into the configuration of several daemons. So a path has no character that one
# of them would expand, or that needs quotes there: no blank, quote, %, $ or ~.
PATH = re.compile(r"/[A-Za-z0-9._@+\[\]/-]*")


class SettingsError(ValueError):
    """The pillar cannot be used. The text names each key that is wrong."""


# Checks: each gets a value of the pillar, and what `KEYS` says about its range or words.


def boolean(value):
    """Check a YAML boolean; "yes" in quotes or 1 is a mistake, not a boolean."""
    if not isinstance(value, bool):
        raise ValueError("true or false, without quotes")
    return value


def integer(value, low, high):
    """Check a whole number from low to high."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"a whole number from {low} to {high}")
    return value


def positive_number(value):
    """Check a number above zero, such as a load average."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise ValueError("a number above 0 and below a million")
    return value


def size(value, low):
    """Check a size of at least `low` bytes; return it in bytes."""
    allowed = f"bytes or a number with K, M or G, from {low} to {1 << 50} bytes"
    match = re.fullmatch(r"([0-9]{1,16})([KMG]?)", str(value).upper())
    if isinstance(value, bool) or not isinstance(value, int | str) or not match:
        raise ValueError(allowed)
    number = int(match[1]) * SIZE_UNITS[match[2]]
    if not low <= number <= 1 << 50:
        raise ValueError(allowed)
    return number


def optional(value, check, *limits):
    """Call `check`, but let null and an empty string stand for "unset"."""
    return None if value is None or value == "" else check(value, *limits)


def text(value):
    """Check a text for a web page: printable, several lines allowed."""
    if not isinstance(value, str) or not value.replace("\n", "").isprintable():
        raise ValueError("a printable text, lines separated by newlines")
    return value.strip()


def email(value):
    """Check an address for people to write to."""
    if not isinstance(value, str) or not EMAIL.fullmatch(value):
        raise ValueError("a mail address such as admin@example.org")
    return value


def path(value):
    """Check an absolute path; a trailing slash, `//` and `/./` are dropped."""
    if not isinstance(value, str) or not PATH.fullmatch(value) or ".." in value.split("/"):
        raise ValueError("an absolute path of letters, digits and . _ @ + - [ ], without ..")
    return posixpath.normpath("/" + value.lstrip("/"))


def mailboxes_path(value):
    """Check a directory that the mail user can own: not `/`, not `/home`."""
    value = path(value)
    if value.count("/") < 2:
        raise ValueError("an absolute path at least two directories deep, such as /srv/mail")
    return value


def www_folder(value):
    """Check a directory of pages, or the word that switches the pages off."""
    try:
        return value if value == "disabled" else path(value)
    except ValueError as error:
        raise ValueError(f"{error}, or the word disabled") from None


def two_paths(value):
    """Check [certificate, key]; chatmail.ini had the text form "certificate key"."""
    allowed = "two different absolute paths, certificate chain first: [/a/fullchain, /a/key]"
    paths = value.split() if isinstance(value, str) else value
    if not isinstance(paths, list | tuple) or len(paths) != 2:
        raise ValueError(allowed)
    paths = [path(each) for each in paths]
    if paths[0] == paths[1]:
        raise ValueError(allowed)
    return paths


def iroh_relay(value):
    """Check the URL of an iroh relay; null (run our own) and "" (none) stay what they are."""
    return value if value is None or value == "" else url(value)


def sha256(value):
    """Check a SHA-256 digest in hexadecimal; upper case is dropped."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise ValueError("a SHA-256 digest, 64 hexadecimal digits, as sha256sum prints it")
    return value.lower()


def url(value):
    """Check an http or https URL without login, query or fragment."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        good = parts and parts.scheme in ("http", "https") and _is_host(parts.hostname or "")
        good = good and parts.port != 0 and re.fullmatch(r"[A-Za-z0-9:/._~%\[\]-]+", value)
    except ValueError:
        good = False
    if not good:
        raise ValueError("a URL such as https://iroh.example.org")
    return value


def host_port(value):
    """Check a listener's address, `host:port`; IPv6 stands in brackets."""
    match = isinstance(value, str) and re.fullmatch(r"(\[[^\[\]]+\]|[^:]+):([0-9]{1,5})", value)
    # Only IPv6 addresses have a colon in them, and only they stand in brackets.
    good = match and _is_host(match[1].strip("[]")) and (":" in match[1]) == (match[1][0] == "[")
    if not good or not 0 < int(match[2]) < 65536:
        raise ValueError("host:port such as 127.0.0.1:3903 or [::1]:3903")
    return value


def own_listener(value):
    """Check `host:port` for a service of ours, which does not run as root."""
    if int(host_port(value).rpartition(":")[2]) < 1024:
        raise ValueError("a port of 1024 or above, such as 127.0.0.1:3903")
    return value


def mail_domain(value):
    """Check a mail domain in one of its three forms; upper case and a final dot are dropped."""
    allowed = (
        "a full domain name (chat.example.org), one whose first label starts with _ "
        "(_chat.example.org), or a bare IPv4 address (13.12.23.42)"
    )
    if not isinstance(value, str):
        raise ValueError(allowed)
    if not value.isascii():
        raise ValueError(f"{allowed}; write an international name as {_punycode(value)}")
    value = value.lower().removesuffix(".")
    if _is_ipv4(value):
        address = ipaddress.IPv4Address(value)
        usable = not (address.is_multicast or address.is_loopback or address.is_reserved)
        if usable and int(address) >= 1 << 24:  # 0.0.0.0/8 means "this network", RFC 1122
            return value
    elif len(value) <= MAX_DOMAIN and _is_fqdn(value.removeprefix("_")):
        return value
    raise ValueError(allowed)


def _is_ipv4(value):
    try:
        ipaddress.IPv4Address(value)
    except ValueError:
        return False
    return True


def _is_fqdn(value):
    labels = value.split(".")
    return (
        len(labels) >= 2
        and all(LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )


def _is_host(value):
    """Tell whether value is an IP address or a name, which may have one label (localhost)."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        labels = value.lower().split(".")
        return all(LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()
    return True


def _punycode(value):
    try:
        encoded = value.lower().encode("idna").decode()
    except UnicodeError:
        encoded = ""
    return encoded if _is_fqdn(encoded) else "its punycode (xn--…)"


def server(value):
    """Check a name server, with or without a port; return `host:port`."""
    given = value.strip().lower().removesuffix(".") if isinstance(value, str) else ""
    if _is_host(given):
        given = f"[{given}]:53" if ":" in given else f"{given}:53"
    try:
        return host_port(given)
    except ValueError:
        raise ValueError(
            "a host name or IP address, with or without :port, such as ns1.example.org:53"
        ) from None


def addresses(value):
    """Check a list of IP addresses."""
    allowed = "a list of IP addresses such as [192.0.2.1, 2001:db8::1]"
    if not isinstance(value, list) or not value or not all(isinstance(a, str) for a in value):
        raise ValueError(allowed)
    try:
        return [str(ipaddress.ip_address(address)) for address in value]
    except ValueError:
        raise ValueError(allowed) from None


def domain_name(value):
    """Check a DNS name, of one label or more; a final dot is dropped."""
    name = value.lower().removesuffix(".") if isinstance(value, str) else ""
    labels = name.split(".")
    if len(name) > 253 or not all(LABEL.fullmatch(label.removeprefix("_")) for label in labels):
        raise ValueError("a DNS name such as example.org")
    return name


def domains(value):
    """Check a list of mail domains; an IP relay is an address or an address literal."""
    allowed = "a list of mail domains such as [example.org, 192.0.2.1]"
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(allowed)
    try:
        return sorted({_mail_domain_of_others(each) for each in value})
    except ValueError:
        raise ValueError(allowed) from None


def _mail_domain_of_others(value):
    """Return a mail domain as an address has it after its @."""
    address = value.removeprefix("[").removesuffix("]")
    return f"[{address}]" if _is_ipv4(address) else domain_name(value)


def ip_addresses(value):
    """Check a list of IP addresses that may be empty."""
    return [] if value == [] else addresses(value)


def networks(value):
    """Check a list of IP networks that may be empty."""
    allowed = "a list of IP networks such as [10.0.0.0/8, fd00::/8]"
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(allowed)
    try:
        return [str(ipaddress.ip_network(each)) for each in value]
    except ValueError:
        raise ValueError(allowed) from None


def trust_anchors(value):
    """Check a list of DNSSEC trust anchors: DS or DNSKEY records as in a zone file."""
    if not isinstance(value, list) or not all(
        isinstance(each, str) and TRUST_ANCHOR.fullmatch(each) for each in value
    ):
        raise ValueError("a list of DS or DNSKEY records such as [. IN DS 20326 8 2 E06D...]")
    return value


def recipients(value):
    """Check a list of public keys for age; a list without duplicates comes back."""
    allowed = "a list of recipients such as age1… and ssh-ed25519 AAAA…, which are public keys"
    if not isinstance(value, list) or not all(_is_recipient(each) for each in value):
        raise ValueError(allowed)
    return list(dict.fromkeys(value))


def _is_recipient(value):
    """Return whether a text is a public key that age takes, without a mistyped letter."""
    if not isinstance(value, str):
        return False
    if value.startswith("ssh-ed25519 "):
        return SSH_RECIPIENT.fullmatch(value) is not None
    return AGE_RECIPIENT.fullmatch(value) is not None and _has_bech32_checksum(value)


def _has_bech32_checksum(value):
    """Return whether the last six letters fit the others (BIP 173)."""
    name, _, data = value.rpartition("1")
    numbers = [ord(each) >> 5 for each in name] + [0] + [ord(each) & 31 for each in name]
    checksum = 1
    for number in [*numbers, *map(BECH32.index, data)]:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ number
        for bit, constant in enumerate(BECH32_GENERATOR):
            checksum ^= constant if top >> bit & 1 else 0
    return checksum == 1


def one_of(value, *words):
    """Check that the value is one of these words."""
    if value not in words:
        raise ValueError(" or ".join(words))
    return value


def salt_function(value):
    """Check the name of a Salt execution function."""
    if not isinstance(value, str) or not re.fullmatch(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*", value):
        raise ValueError("a Salt function such as my_dns.apply")
    return value


def resolve(pillar, grains, mail_off=False):
    """Return the relay's settings: every key of `KEYS` and what is derived from them.

    pillar: the whole pillar; its mapping `chatmail` is used, which may be partial.
    grains: `os`, `osmajorrelease`, `cpuarch`, `dns` (what resolv.conf says), `ipv4` (all of the
    machine's addresses) and `pythonpath` (Salt's own search path) are used.
    mail_off: whether the file MAIL_OFF exists on the machine.
    Sizes come back in bytes; nested keys as nested dictionaries.
    Raises SettingsError, which names each key that is wrong, its value and what is allowed.
    """
    errors = []
    release = _debian_release(grains, errors)
    given = _flat(pillar.get("chatmail", {}), errors)
    values = _checked(given, errors)
    errors += _contradictions(values)
    if errors:
        raise SettingsError(
            f"{len(errors)} problem(s) with the settings (pillar chatmail), nothing was changed:\n"
            + "\n".join(f"- {error}" for error in errors)
        )
    settings = _nested(values)
    settings.update(_derived(settings, release))
    # A machine out of service publishes no record, rotates no key and orders no certificate.
    settings["in_service"] = not mail_off
    settings["mail"] = settings["mail"] and not mail_off
    settings["turn_external_ip"] = _external_ip(
        settings["dns"]["addresses"], grains.get("ipv4") or []
    )
    settings["iroh_binary"] = _iroh_binary(settings["iroh_binary"], grains.get("cpuarch"))
    settings["salt_site_packages"] = _site_packages(grains)
    settings["search_domains"] = _search_domains(grains.get("dns") or {})
    settings["settings_digests"] = {
        service: _digest({name: settings[name] for name in names})
        for service, names in SETTINGS_READ.items()
    }
    return settings


def _debian_release(grains, errors):
    """Return 12 or 13."""
    name, release = grains.get("os"), str(grains.get("osmajorrelease", ""))
    if name == "Debian" and release in map(str, DOVECOT_VERSIONS):
        return int(release)
    errors.append(f"operating system: found {name} {release}, allowed is Debian 12 or 13")
    return None


def _flat(given, errors):
    """Return {"name" or "group:name": value} of the given keys, and report unknown ones."""
    if not isinstance(given, dict):
        errors.append(f"chatmail: {_quote(given)}, allowed is a mapping of settings")
        return {}
    known = {key.name for key in KEYS}
    groups = {name.partition(":")[0] for name in known if ":" in name}
    flat = {}
    for name, value in given.items():
        if name not in groups:
            # "clean:purge" is how we write a nested key, not how a pillar does.
            flat[name if ":" not in str(name) else repr(name)] = value
        elif isinstance(value, dict):
            flat.update({f"{name}:{inner}": each for inner, each in value.items()})
        else:
            errors.append(f"{name}: {_quote(value)}, allowed is a mapping of settings")
    errors += [_report_unknown(name, flat[name], known) for name in flat if name not in known]
    return flat


def _report_unknown(name, value, known):
    """Return the report on a key that `KEYS` does not have."""
    name = str(name)
    near = difflib.get_close_matches(name, sorted(known), 1)
    shown = name if name.isprintable() and len(name) <= 80 else _quote(name)
    if near:
        return f"{shown}: {_quote(value)}, no such setting; did you mean {near[0]}?"
    # The value may be a secret in the wrong place, so it is shown only beside a similar setting.
    return f"{shown}: no such setting; pillar.example lists all of them"


def _quote(value):
    """Return a value as a message shows it: on one line, and cut if it is long."""
    shown = ascii(value)
    if re.search("SECRET.KEY|PRIVATE.KEY", shown, re.IGNORECASE):
        return "a private key, which belongs to nobody else"
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _checked(given, errors):
    """Return {name: value to use} of all keys, without those in error."""
    values = {}
    for key in KEYS:
        if key.name not in given:
            default = copy.copy(key.default)
            values[key.name] = default if default is None else key.check(default)
            continue
        try:
            values[key.name] = key.check(given[key.name])
        except ValueError as error:
            errors.append(f"{key.name}: {_quote(given[key.name])}, allowed is {error}")
    if "mail_domain" not in given:
        errors.append("mail_domain: missing, it is the one required setting")
    return values


def _contradictions(values):
    """Return the reports on values that are allowed alone but not together."""
    reports = []
    # A value in error is missing here, because it already has its report.
    for low, high in (
        ("username_min_length", "username_max_length"),
        ("max_message_size", "max_mailbox_size"),
    ):
        if low in values and high in values and values[low] > values[high]:
            reports.append(f"{low}: {values[low]}, allowed is at most {high}, {values[high]}")
    return reports + _shared_paths(values) + _ways_to_publish(values) + _federation(values)


def _federation(values):
    """Return the reports on domains that the federation lists must not have."""
    block, allow = (values.get(f"federation:{name}") or [] for name in ("block", "allow"))
    reports = []
    if both := sorted(set(block) & set(allow)):
        reports.append(
            f"federation:block and federation:allow: {both}, allowed is a domain in one list only"
        )
    own = values.get("mail_domain") or ""
    own = f"[{own}]" if _is_ipv4(own) else own
    # A name stands for all names below it, too.
    if barred := [name for name in block if own == name or own.endswith(f".{name}")]:
        reports.append(f"federation:block: {barred}, allowed are other domains than {own}")
    return reports


def _ways_to_publish(values):
    """Return the reports on DNS settings that need or exclude each other."""
    server, key, hook = (values.get(f"dns:{name}") for name in ("server", "tsig_key_file", "hook"))
    reports = []
    if bool(server) != bool(key):
        reports.append(
            f"dns:server and dns:tsig_key_file: {server!r} and {key!r}, allowed is both or neither"
        )
    if server and hook:
        reports.append(f"dns:server and dns:hook: {server!r} and {hook!r}, allowed is only one")
    if values.get("acme_challenge") == "dns-01" and not server:
        reports.append("acme_challenge: dns-01 needs dns:server, to publish the challenges")
    if values.get("dkim:rotate_after") and not (server or hook):
        reports.append("dkim:rotate_after: needs dns:server or dns:hook, to publish new keys")
    return reports


def _shared_paths(values):
    """Return the reports on paths that are the same, or one inside the other."""
    reports = []
    www = values.get("www_folder")
    mail = values.get("mailboxes_dir") or _mailboxes_dir(values.get("mail_domain"))
    if www and "mailboxes_dir" in values and f"{mail}/".startswith(f"{www.rstrip('/')}/"):
        reports.append(f"mailboxes_dir: {mail!r}, allowed is a path outside of www_folder, {www!r}")
    # The relay writes these two files itself, so it would overwrite the operator's.
    if clash := {TLS_CERTIFICATE, TLS_KEY} & set(values.get("tls_external_cert_and_key") or []):
        reports.append(
            f"tls_external_cert_and_key: {sorted(clash)}, allowed are paths outside of "
            f"{posixpath.dirname(TLS_KEY)}, where the relay keeps its own"
        )
    return reports


def _mailboxes_dir(domain):
    return f"/home/vmail/mail/{domain}"


def _mta_sts_policy(domain):
    """Return the policy that /.well-known/mta-sts.txt serves (RFC 8461 section 3.2)."""
    lines = ("version: STSv1", "mode: enforce", f"mx: {domain}", "max_age: 2419200", "")
    return "\r\n".join(lines)


def _site_packages(grains):
    """Return where Salt's own Python finds packages, None if it finds Debian's."""
    path = grains.get("pythonpath") or []
    if "/usr/lib/python3/dist-packages" in path:
        return None
    return next((each for each in path if each.endswith("/site-packages")), None)


def _iroh_binary(given, architecture):
    """Return `url` and `sha256` of the iroh relay for a machine, None if we know no program."""
    known = IROH_SHA256.get(architecture)
    return {
        "url": given["url"] or (IROH_URL.format(architecture) if known else None),
        # A mirror has the same program, so its URL needs no digest.
        "sha256": given["sha256"] or known,
    }


def _search_domains(given):
    """Return the domains that resolv.conf shall search, which are those that it searches now.

    given: Salt's grain `dns`. The machine may find other machines, such as its Salt master, by a
    name without a domain. `domain` is the older form of one search domain (resolv.conf(5)).
    """
    found = []
    for each in given.get("search") or [given.get("domain")]:
        # "search ." stands for no domain.
        with contextlib.suppress(ValueError):
            found.append(domain_name(each))
    return found


def _digest(values):
    """Return a short digest, which changes when one of these values changes."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _external_ip(addresses, own):
    """Return the public IPv4 address of a relay behind NAT, None without NAT.

    addresses: the public addresses, from `dns:addresses`. own: the machine's IPv4 addresses.
    """
    found = [address for address in addresses or [] if _is_ipv4(address)]
    return found[0] if len(found) == 1 and found[0] not in own else None


def _nested(values):
    """Turn {"group:name": value} into nested dictionaries."""
    nested = {}
    for name, value in values.items():
        group, _, inner = name.rpartition(":")
        (nested.setdefault(group, {}) if group else nested)[inner] = value
    return nested


def _derived(settings, release):
    """Return what follows from the settings."""
    domain = settings["mail_domain"]
    ip = _is_ipv4(domain)
    form = "ip" if ip else "test" if domain.startswith("_") else "domain"
    if settings["tls_external_cert_and_key"]:
        tls_mode = "external"
    else:
        tls_mode = "acme" if form == "domain" else "self_signed"
    policy = None if ip else _mta_sts_policy(domain)
    # `nocreate` is the older name of `registration: closed`.
    closed = settings["nocreate"] or settings["registration"] == "closed"
    return {
        "formula": FORMULA,
        "form": form,
        "nocreate": closed,
        "registration": "closed" if closed else settings["registration"],
        "mta_sts_policy": policy,
        # RFC 8461 section 3.1 allows 32 letters and digits. The id changes when the policy changes.
        # A test domain publishes no id, because other servers cannot verify its certificate.
        "mta_sts_id": hashlib.sha256(policy.encode()).hexdigest()[:32]
        if form == "domain"
        else None,
        "address_domain": f"[{domain}]" if ip else domain,
        "hostname": ipaddress.IPv4Address(domain).reverse_pointer if ip else domain,
        "tls_mode": tls_mode,
        "tls_certificate": TLS_CERTIFICATE,
        "tls_key": TLS_KEY,
        # Delta Chat checks no certificate on a relay without a domain, and Apple's clients speak no
        # TLS 1.3 then.
        "oldest_client_tls": "TLSv1.2" if ip else "TLSv1.3",
        "tls_names": [domain] if ip else [domain, f"www.{domain}", f"mta-sts.{domain}"],
        "dkim_required": not ip,
        "mailboxes_dir": settings["mailboxes_dir"] or _mailboxes_dir(domain),
        "max_mailbox_size_mb": settings["max_mailbox_size"] // MIB,
        # Encrypted messages are larger than 1 KB, so they reach the quota before this number.
        "max_mailbox_messages": settings["max_mailbox_size"] // KIB,
        # Postfix itself demands space for 1.5 messages (postconf(5), queue_minfree).
        "submission_min_free": 10 * settings["max_message_size"],
        # One holds the TLS state of 10,000 clients within its limit of 1 GB; it takes 2 MB at rest.
        "imap_login_processes": max(2, -(-settings["max_imap_connections"] // 10_000)),
        # The limit of nginx is higher than the gateway's, so that the gateway itself refuses.
        "max_request_size": 2 * settings["max_message_size"],
        "max_smtp_connections_per_ip": settings["max_smtp_connections"] // 5,
        "services": list(SERVICES),
        "debian_release": release,
        "dovecot_version": DOVECOT_VERSIONS[release],
    }


def refuse_downgrade(stored):
    """Raise SettingsError if a newer release of the formula has converged this machine.

    stored: the text of STORED, None on a machine without it. An older release does not know what a
    newer one has set up: its units would go on, and its files would stay. A text that names no
    release is taken for that of an older one, which the converge writes anew.
    """
    try:
        found = str(json.loads(stored or "{}").get("formula"))
        newer = _release(found) > _release(FORMULA)
    except (AttributeError, ValueError):
        return
    if newer:
        raise SettingsError(
            f"release {found} of the formula converged this machine, and this is {FORMULA}, which "
            f"is older; nothing was changed. Use {found} or a newer one. To go back, first apply "
            f"chatmail.clean with {found}, which keeps mail and keys, then chatmail with {FORMULA}"
        )


def _release(name):
    """Return a release such as 2026.11 or 2026.11.1 as numbers, which have an order."""
    return [int(part) for part in name.split(".")]


def run():
    """Return the settings of this machine, or {"error": text}, to Salt's `py` renderer.

    The error is returned and not raised, because the renderer would turn it into a traceback;
    `settings.jinja` and `chatmail_relay.settings` raise it as one message.
    """
    try:
        refuse_downgrade(_ask("file.read", STORED) if _ask("file.file_exists", STORED) else None)
        return resolve(__pillar__, __grains__, _ask("file.file_exists", MAIL_OFF))
    except SettingsError as error:
        return {"error": str(error)}


def _ask(function, path):
    """Return what a function of Salt says of a file on the machine."""
    if "_ssh_version" not in __opts__:
        return __salt__[function](path)
    # salt-ssh opens a connection for each call, and renders this file for each part. The grains
    # live as long as its work for one machine.
    known = f"{function} {path}"
    if known not in __grains__:
        __grains__[known] = __salt__[function](path)
    return __grains__[known]
