"""The relay's settings: pillar `chatmail` checked, completed and put into one plain dictionary.

`resolve()` is plain Python. `run()` is what Salt's `py` renderer calls; states and templates
reach it through `chatmail/settings.jinja` only. A setting is one row of `KEYS`; what follows
from settings (file names, the TLS mode, megabytes) is computed in `_derived()`.
"""

import copy
import difflib
import hashlib
import ipaddress
import posixpath
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
# What the sizes' last letter multiplies by; Dovecot's and Postfix's own K, M and G.
SIZE_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB}

DOVECOT_VERSIONS = {12: "2.3", 13: "2.4"}

# Each is a subpackage of chatmaild and a unit chatmail-<name>, which runs on every relay.
SERVICES = ["accounts", "filter", "metadata", "transport"]

# What every daemon reads, whoever issued the certificate.
TLS_CERTIFICATE, TLS_KEY = "/etc/chatmail/tls/fullchain.pem", "/etc/chatmail/tls/privkey.pem"

# The iroh-relay that is known to work, and the SHA-256 of the program in it by grain `cpuarch`.
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

TRUST_ANCHOR = re.compile(
    r"[A-Za-z0-9._-]+( +[0-9]+)?( +IN)? +(DS( +[0-9]+){3} +[0-9A-Fa-f ]+|"
    r"DNSKEY( +[0-9]+){3} +[A-Za-z0-9+/= ]+)"
)
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")
# Paths end up in the configuration languages of several daemons, so nothing that one of them
# would have to quote or would expand (blank, quote, %, $, ~).
PATH = re.compile(r"/[A-Za-z0-9._@+\[\]/-]*")


class SettingsError(ValueError):
    """The pillar cannot be used; the text names every offending key at once."""


class Key(NamedTuple):
    """One setting: `name` as in the pillar ("group:key" for a nested one).

    default: used as it is, unchecked, when the pillar has no such key.
    check: takes the pillar's value, returns the one to use, raises ValueError(what is allowed).
    """

    name: str
    default: Any
    check: Callable[[Any], Any]


# Checks: what the table below calls with a value, or what makes such a function.


def boolean(value):
    """Check a YAML boolean; "yes" in quotes or 1 is a mistake, not a boolean."""
    if not isinstance(value, bool):
        raise ValueError("true or false, without quotes")
    return value


def integer(low, high):
    """Return a check for a whole number from low to high."""

    def check(value):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def positive_number(value):
    """Check a number above zero, such as a load average."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise ValueError("a number above 0 and below a million")
    return value


def size(low):
    """Return a check for a size of at least `low` bytes; it answers bytes."""
    allowed = f"bytes or a number with K, M or G, from {low} to {1 << 50} bytes"

    def check(value):
        match = re.fullmatch(r"([0-9]{1,16})([KMG]?)", str(value).upper())
        if isinstance(value, bool) or not isinstance(value, int | str) or not match:
            raise ValueError(allowed)
        number = int(match[1]) * SIZE_UNITS[match[2]]
        if not low <= number <= 1 << 50:
            raise ValueError(allowed)
        return number

    return check


def optional(check):
    """Return a check that lets null and an empty string stand for "unset"."""
    return lambda value: None if value is None or value == "" else check(value)


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
    """Check a directory that may be owned by the mail user: not `/`, not `/home`."""
    value = path(value)
    if value.count("/") < 2:
        raise ValueError("an absolute path at least two directories deep, such as /srv/mail")
    return value


def www_folder(value):
    """Check a directory of pages, or the word that switches the pages off."""
    return value if value == "disabled" else path(value)


def two_paths(value):
    """Check [certificate, key]; the text form "certificate key" is what chatmail.ini had."""
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
    # IPv6 addresses, and they alone, have a colon within.
    good = match and _is_host(match[1].strip("[]")) and (":" in match[1]) == (match[1][0] == "[")
    if not good or not 0 < int(match[2]) < 65536:
        raise ValueError("host:port such as 127.0.0.1:3903 or [::1]:3903")
    return value


def own_listener(value):
    """Check where a service of ours, which is not root, is to listen, `host:port`."""
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


def host_and_port(default):
    """Return a check for a server, with or without a port; it answers `host:port`."""
    allowed = "a host name or IP address, with or without :port, such as ns1.example.org:53"

    def check(value):
        given = value.strip().lower().removesuffix(".") if isinstance(value, str) else ""
        if _is_host(given):
            given = f"[{given}]:{default}" if ":" in given else f"{given}:{default}"
        try:
            return host_port(given)
        except ValueError:
            raise ValueError(allowed) from None

    return check


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
    """Check a list of mail domains, those of IP relays as address or address literal."""
    allowed = "a list of mail domains such as [example.org, 192.0.2.1]"
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(allowed)
    try:
        return sorted({_mail_domain_of_others(each) for each in value})
    except ValueError:
        raise ValueError(allowed) from None


def _mail_domain_of_others(value):
    """Return a mail domain as it stands after the @ of an address."""
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


def one_of(*words):
    """Return a check for one of these words."""

    def check(value):
        if value not in words:
            raise ValueError(" or ".join(words))
        return value

    return check


def salt_function(value):
    """Check the name of a Salt execution function."""
    if not isinstance(value, str) or not re.fullmatch(r"[a-z_][a-z0-9_]*\.[a-z_][a-z0-9_]*", value):
        raise ValueError("a Salt function such as my_dns.apply")
    return value


DAYS = integer(1, 36500)
COUNT = integer(1, 1_000_000)

# The names and defaults are those that operators of existing relays know. What each one means,
# and its unit, stands in pillar.example.
KEYS = (
    Key("mail_domain", None, mail_domain),
    Key("max_user_send_per_minute", 60, COUNT),
    Key("max_user_send_burst_size", 10, COUNT),
    Key("max_mailbox_size", 500 * MIB, size(MIB)),
    Key("max_message_size", 31457280, size(64 * KIB)),
    Key("delete_mails_after", 20, DAYS),
    Key("delete_large_after", 7, DAYS),
    Key("delete_inactive_users_after", 90, DAYS),
    Key("username_min_length", 9, integer(1, MAX_LOCAL_PART)),
    Key("username_max_length", 9, integer(1, MAX_LOCAL_PART)),
    Key("password_min_length", 9, integer(8, 128)),
    Key("max_load_1m", 5, positive_number),
    Key("min_available_memory", 200 * MIB, size(0)),
    Key("min_free_disk_space", GIB, size(0)),
    Key("max_imap_connections", 10000, COUNT),
    Key("max_smtp_connections", 1000, integer(5, 1_000_000)),
    Key("disable_ipv6", False, boolean),
    Key("acme_email", None, optional(email)),
    Key("acme_directory", "https://acme-v02.api.letsencrypt.org/directory", url),
    Key("acme_challenge", "http-01", one_of("http-01", "dns-01")),
    Key("tls_external_cert_and_key", None, optional(two_paths)),
    Key("iroh_relay", None, iroh_relay),
    Key("iroh_binary:url", None, optional(url)),
    Key("iroh_binary:sha256", None, optional(sha256)),
    Key("notification_url", "https://notifications.delta.chat/notify", url),
    Key("metrics_address", None, optional(own_listener)),
    Key("imap_rawlog", False, boolean),
    Key("imap_compress", False, boolean),
    Key("www_folder", None, optional(www_folder)),
    Key("mailboxes_dir", None, optional(mailboxes_path)),
    Key("privacy_postal", None, optional(text)),
    Key("privacy_mail", None, optional(email)),
    Key("privacy_pdo", None, optional(text)),
    Key("privacy_supervisor", None, optional(text)),
    Key("nocreate", False, boolean),
    Key("registration", "open", one_of("open", "invite", "closed")),
    Key("max_registrations_per_hour", 100, COUNT),
    Key("federation:block", [], domains),
    Key("federation:allow", [], domains),
    Key("federation:private_networks", [], networks),
    Key("mail", True, boolean),
    Key("fsync", False, boolean),
    Key("clean:purge", False, boolean),
    Key("resolver:forwarders", [], ip_addresses),
    Key("resolver:trust_anchors", [], trust_anchors),
    Key("dkim:rotate_after", None, optional(integer(7, 36500))),
    Key("dkim:retire_after", 14, integer(3, 365)),
    Key("dns:addresses", None, optional(addresses)),
    Key("dns:server", None, optional(host_and_port(53))),
    Key("dns:tsig_key_file", None, optional(path)),
    Key("dns:zone", None, optional(domain_name)),
    Key("dns:hook", None, optional(salt_function)),
    Key("dns:caa_issuer", None, optional(domain_name)),
)


def resolve(pillar, grains):
    """Return the relay's settings: every key of `KEYS` and what is derived from them.

    pillar: the whole pillar; its mapping `chatmail` is used, which may be partial.
    grains: `os`, `osmajorrelease`, `cpuarch`, `ipv4` (all of the machine's addresses) and
    `pythonpath` (Salt's own search path) are used.
    Sizes come back in bytes; nested keys as nested dictionaries.
    Raises SettingsError naming every offending key, its value and what is allowed.
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
    settings["turn_external_ip"] = _external_ip(
        settings["dns"]["addresses"], grains.get("ipv4") or []
    )
    settings["iroh_binary"] = _iroh_binary(settings["iroh_binary"], grains.get("cpuarch"))
    settings["salt_site_packages"] = _site_packages(grains)
    return settings


def _debian_release(grains, errors):
    """Return 12 or 13."""
    name, release = grains.get("os"), str(grains.get("osmajorrelease", ""))
    if name == "Debian" and release in map(str, DOVECOT_VERSIONS):
        return int(release)
    errors.append(f"operating system: found {name} {release}, allowed is Debian 12 or 13")
    return None


def _flat(given, errors):
    """Return {"name" or "group:name": value} of the keys given, unknown ones reported."""
    if not isinstance(given, dict):
        errors.append(f"chatmail: {_shown(given)}, allowed is a mapping of settings")
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
            errors.append(f"{name}: {_shown(value)}, allowed is a mapping of settings")
    errors += [_unknown(name, flat[name], known) for name in flat if name not in known]
    return flat


def _unknown(name, value, known):
    """Return the report on a key that nothing names."""
    name = str(name)
    near = difflib.get_close_matches(name, sorted(known), 1)
    shown = name if name.isprintable() and len(name) <= 80 else _shown(name)
    if near:
        return f"{shown}: {_shown(value)}, no such setting; did you mean {near[0]}?"
    # It may be a secret in the wrong place: without a likely setting, its value stays unseen.
    return f"{shown}: no such setting; pillar.example lists all of them"


def _shown(value):
    """Return a value as a message shows it: on one line and not endless."""
    shown = ascii(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _checked(given, errors):
    """Return {name: value to use} of all keys; those in error are left out."""
    values = {}
    for key in KEYS:
        if key.name not in given:
            values[key.name] = copy.copy(key.default)
            continue
        try:
            values[key.name] = key.check(given[key.name])
        except ValueError as error:
            errors.append(f"{key.name}: {_shown(given[key.name])}, allowed is {error}")
    if "mail_domain" not in given:
        errors.append("mail_domain: missing, it is the one required setting")
    return values


def _contradictions(values):
    """Return the reports on values that are fine alone and impossible together."""
    reports = []
    # A value in error is absent here and has its report already.
    for low, high in (
        ("username_min_length", "username_max_length"),
        ("max_message_size", "max_mailbox_size"),
    ):
        if low in values and high in values and values[low] > values[high]:
            reports.append(f"{low}: {values[low]}, allowed is at most {high}, {values[high]}")
    return reports + _shared_paths(values) + _ways_to_publish(values) + _federation(values)


def _federation(values):
    """Return the reports on domains that a list of the federation cannot hold."""
    block, allow = (values.get(f"federation:{name}") or [] for name in ("block", "allow"))
    reports = []
    if both := sorted(set(block) & set(allow)):
        reports.append(f"federation:block and federation:allow: {both}, allowed is one of them")
    own = values.get("mail_domain") or ""
    own = f"[{own}]" if _is_ipv4(own) else own
    # A name stands for all names below it too.
    if barred := [name for name in block if own == name or own.endswith(f".{name}")]:
        reports.append(f"federation:block: {barred}, allowed are other domains than {own}")
    return reports


def _ways_to_publish(values):
    """Return the reports on DNS settings of which one asks for another."""
    server, key, hook = (values.get(f"dns:{name}") for name in ("server", "tsig_key_file", "hook"))
    reports = []
    if bool(server) != bool(key):
        reports.append("dns:server and dns:tsig_key_file: allowed are both or neither")
    if server and hook:
        reports.append("dns:server and dns:hook: allowed is one way to publish")
    if values.get("acme_challenge") == "dns-01" and not server:
        reports.append("acme_challenge: dns-01 needs dns:server, to publish the challenges")
    if values.get("dkim:rotate_after") and not (server or hook):
        reports.append("dkim:rotate_after: needs dns:server or dns:hook, to publish new keys")
    return reports


def _shared_paths(values):
    """Return the reports on paths that are one, or of which one lies in the other."""
    reports = []
    www = values.get("www_folder")
    mail = values.get("mailboxes_dir") or _mailboxes_dir(values.get("mail_domain"))
    if www and "mailboxes_dir" in values and f"{mail}/".startswith(f"{www.rstrip('/')}/"):
        reports.append(f"mailboxes_dir: {mail!r}, allowed is a path outside of www_folder, {www!r}")
    # We write those two, and would overwrite what we should only read.
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
    """Return where Salt's own Python looks for packages, None if it sees Debian's."""
    path = grains.get("pythonpath") or []
    if "/usr/lib/python3/dist-packages" in path:
        return None
    return next((each for each in path if each.endswith("/site-packages")), None)


def _iroh_binary(given, architecture):
    """Return `url` and `sha256` of the iroh relay for a machine; None where none is known."""
    known = IROH_SHA256.get(architecture)
    return {
        "url": given["url"] or (IROH_URL.format(architecture) if known else None),
        # A mirror of ours needs no digest of its own.
        "sha256": given["sha256"] or known,
    }


def _external_ip(addresses, own):
    """Return the IPv4 address that NAT gives the relay, None without NAT.

    addresses: what the world knows the relay by. own: the machine's IPv4 addresses.
    """
    found = [address for address in addresses or [] if _is_ipv4(address)]
    return found[0] if len(found) == 1 and found[0] not in own else None


def _nested(values):
    """Return the flat names as nested dictionaries."""
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
    # Two names for one thing: that of existing relays, and the third kind of registration.
    closed = settings["nocreate"] or settings["registration"] == "closed"
    return {
        "form": form,
        "nocreate": closed,
        "registration": "closed" if closed else settings["registration"],
        # RFC 8461 section 3.1 allows 32 letters and digits; it changes when the policy does.
        "mta_sts_policy": policy,
        # A test domain publishes none: nobody could verify its certificate.
        "mta_sts_id": hashlib.sha256(policy.encode()).hexdigest()[:32]
        if form == "domain"
        else None,
        "address_domain": f"[{domain}]" if ip else domain,
        "hostname": ipaddress.IPv4Address(domain).reverse_pointer if ip else domain,
        "tls_mode": tls_mode,
        "tls_certificate": TLS_CERTIFICATE,
        "tls_key": TLS_KEY,
        "tls_names": [domain] if ip else [domain, f"www.{domain}", f"mta-sts.{domain}"],
        "dkim_required": not ip,
        "mailboxes_dir": settings["mailboxes_dir"] or _mailboxes_dir(domain),
        "max_mailbox_size_mb": settings["max_mailbox_size"] // MIB,
        # nginx's limit, above which it answers itself; below it our own handler does.
        "max_request_size": 2 * settings["max_message_size"],
        "max_smtp_connections_per_ip": settings["max_smtp_connections"] // 5,
        "services": list(SERVICES),
        "debian_release": release,
        "dovecot_version": DOVECOT_VERSIONS[release],
    }


def run():
    """Return the settings of this machine, or {"error": text}, to Salt's `py` renderer.

    The error is returned and not raised, because the renderer would turn it into a traceback;
    `settings.jinja` and `chatmail_relay.settings` raise it as one message.
    """
    try:
        return resolve(__pillar__, __grains__)
    except SettingsError as error:
        return {"error": str(error)}
