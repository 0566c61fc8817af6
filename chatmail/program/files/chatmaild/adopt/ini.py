"""The settings of a machine of cmdeploy: its `chatmail.ini`, and the pillar that means the same."""

import configparser
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from chatmaild.common.errors import OperatorError

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
PATH = re.compile(r"/[A-Za-z0-9._@+\[\]/-]*")
# mtail of such a machine listens there.
METRICS_PORT = 3903


class Setting(NamedTuple):
    """One setting that both sides know.

    ini: the name in chatmail.ini. read: gets the text, returns the value as the relay's settings
    have it, raises ValueError(what is allowed). default: what the relay does without this setting.
    pillar: the name in pillar, where it differs.
    """

    ini: str
    read: Callable[[str], Any]
    default: Any
    pillar: str = ""

    @property
    def name(self):
        """The name in pillar."""
        return self.pillar or self.ini


def whole(low, high):
    """Return a reader of whole numbers from low to high."""

    def read(text):
        if not re.fullmatch(r"[0-9]{1,15}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return read


def size(low):
    """Return a reader of sizes of at least `low` bytes, in the forms of Dovecot: 500M, 1 GB."""

    def read(text):
        found = re.fullmatch(r"([0-9]{1,15}) ?([KMG]?)(B|IB)?", text.upper())
        if not found or int(found[1]) * UNITS[found[2]] < low:
            raise ValueError(f"a size of at least {low} bytes")
        return int(found[1]) * UNITS[found[2]]

    return read


def boolean(text):
    """Read a truth value: `true` in any case, everything else is false."""
    return text.lower() == "true"


def number(text):
    """Read a number above zero."""
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) or not float(text):
        raise ValueError("a number above 0")
    return float(text)


def words(text):
    """Read a text of one line or more. An empty text means that there is none."""
    if not text.replace("\n", "").isprintable():
        raise ValueError("a printable text")
    return text or None


def address(text):
    """Read a mail address."""
    if text and not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]+", text):
        raise ValueError("one mail address")
    return text or None


def path(text):
    """Read an absolute path."""
    if text and (not PATH.fullmatch(text) or ".." in text.split("/") or text.count("/") < 2):
        raise ValueError("an absolute path of letters, digits and . _ @ + - [ ]")
    return text.rstrip("/") or None


def two_paths(text):
    """Read the paths of a certificate and of its key."""
    paths = text.split()
    if paths and (len(paths) != 2 or not all(PATH.fullmatch(each) for each in paths)):
        raise ValueError("two paths")
    return paths or None


def iroh(text):
    """Read the URL of an iroh relay. An empty text means that clients use their own default."""
    if text and (urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname):
        raise ValueError("a URL")
    return text


def listener(text):
    """Read the IP address of mtail; return it with mtail's port."""
    if not re.fullmatch(r"[0-9A-Fa-f.:]*", text):
        raise ValueError("an IP address")
    host = f"[{text}]" if ":" in text else text
    return f"{host}:{METRICS_PORT}" if text else None


# Without a line in chatmail.ini, such a machine has the same default, unless `absent` knows better.
SETTINGS = (
    Setting("max_user_send_per_minute", whole(1, 1_000_000), 60),
    Setting("max_user_send_burst_size", whole(1, 1_000_000), 10),
    Setting("max_mailbox_size", size(1 << 20), 500 << 20),
    Setting("max_message_size", size(64 << 10), 30 << 20),
    Setting("delete_mails_after", whole(1, 36500), 20),
    Setting("delete_large_after", whole(1, 36500), 7),
    Setting("delete_inactive_users_after", whole(1, 36500), 90),
    Setting("username_min_length", whole(1, 64), 9),
    Setting("username_max_length", whole(1, 64), 9),
    Setting("password_min_length", whole(8, 128), 9),
    Setting("max_load_1m", number, 5),
    Setting("min_available_memory", size(0), 200 << 20),
    Setting("min_free_disk_space", size(0), 1 << 30),
    Setting("max_imap_connections", whole(1, 1_000_000), 10000),
    Setting("max_smtp_connections", whole(5, 1_000_000), 1000),
    Setting("disable_ipv6", boolean, False),
    Setting("imap_rawlog", boolean, False),
    Setting("imap_compress", boolean, False),
    Setting("acme_email", address, None),
    Setting("tls_external_cert_and_key", two_paths, None),
    Setting("iroh_relay", iroh, None),
    Setting("mtail_address", listener, None, "metrics_address"),
    Setting("privacy_postal", words, None),
    Setting("privacy_mail", address, None),
    Setting("privacy_pdo", words, None),
    Setting("privacy_supervisor", words, None),
    Setting("mailboxes_dir", path, None),
)
SIZES = {"max_mailbox_size", "max_message_size", "min_available_memory", "min_free_disk_space"}

GOES = "a program that goes away used it; the relay needs no such setting"
# Settings of chatmail.ini that no pillar has, and why. An empty one says nothing.
WITHOUT_EQUIVALENT = {
    "passthrough_senders": "nobody may send without encryption",
    "passthrough_recipients": "nobody gets mail without encryption",
    "www_folder": "a folder on the operator's computer: copy it to the relay, then set www_folder "
    "in pillar to its path there",
    "filtermail_smtp_port": GOES,
    "filtermail_smtp_port_incoming": GOES,
    "filtermail_http_port_incoming": GOES,
    "filtermail_lmtp_port_transport": GOES,
    "postfix_reinject_port": GOES,
    "postfix_reinject_port_incoming": GOES,
    "turn_socket_path": GOES,
    "passdb_path": GOES,
}


def parse(text):
    """Return {name: text} of chatmail.ini. Raises OperatorError without a usable `mail_domain`."""
    parser = configparser.ConfigParser(
        interpolation=None, delimiters=("=",), strict=False, empty_lines_in_values=False
    )
    parser.optionxform = str
    try:
        parser.read_string(text)
        given = {name: value.strip() for name, value in parser["params"].items()}
    except (configparser.Error, KeyError) as error:
        raise OperatorError(f"chatmail.ini cannot be read: {error}") from None
    domain = given.get("mail_domain", "").lower()
    if not re.fullmatch(r"_?[a-z0-9-]+(\.[a-z0-9-]+)+", domain):
        raise OperatorError(f"chatmail.ini: mail_domain is {domain!r}, expected a domain")
    return {**given, "mail_domain": domain}


def translate(given, absent=None):
    """Return the settings that keep the machine's behaviour.

    given: the result of `parse`. absent: {name: text} that the machine has for a missing line.
    Returns (settings, without): {name: value as the relay's settings have it}, without those that
    the relay has by default; and {name: reason} of the lines that have no equivalent.
    """
    domain = given["mail_domain"]
    found, without = {"mail_domain": domain}, {}
    for setting in SETTINGS:
        text = given.get(setting.ini, (absent or {}).get(setting.ini))
        if text is None:
            continue
        try:
            value = setting.read(text)
        except ValueError as error:
            without[setting.ini] = f"the relay does not take its value; allowed is {error}"
            continue
        if value != setting.default and value != _usual(setting.ini, domain):
            found[setting.name] = value
    known = {"mail_domain", *(setting.ini for setting in SETTINGS)}
    for name in sorted(set(given) - known):
        if given[name]:
            without[name] = WITHOUT_EQUIVALENT.get(name, "the relay knows no such setting")
    return found, without


def _usual(name, domain):
    """Return what a generated chatmail.ini spells out although it is the default."""
    return {"mailboxes_dir": f"/home/vmail/mail/{domain}"}.get(name, ())


def show(settings):
    """Return settings as a pillar has them: whole megabytes as `500M`."""
    return {
        name: f"{value >> 20}M" if name in SIZES and not value % (1 << 20) else value
        for name, value in settings.items()
    }
