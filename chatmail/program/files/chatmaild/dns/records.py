"""The records that this relay needs, from its settings, its keys and its ACME account."""

import ipaddress
import json
import urllib.parse
from pathlib import Path

from chatmaild.common.errors import OperatorError
from chatmaild.dkim.key_records import TTL
from chatmaild.dkim.key_records import list_records as list_key_records

ACME_ACCOUNTS = Path("/etc/letsencrypt/accounts")
# The names that authorities have in CAA records, by the host of their ACME directory.
CAA_ISSUERS = {
    "acme-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme-staging-v02.api.letsencrypt.org": "letsencrypt.org",
    "acme.zerossl.com": "sectigo.com",
    "dv.acme-v02.api.pki.goog": "pki.goog",
    "api.buypass.com": "buypass.com",
}
# Addresses that cannot be reached from the Internet. The module ipaddress counts the documentation
# ranges as private too. They are not in this list, because test networks use them.
NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3"),
        *("::/127", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
]
WHY = {
    "A": "other relays and clients find the machine by it",
    "AAAA": "other relays and clients find the machine by it over IPv6",
    "MX": "other servers deliver mail to the host that it names",
    "mta-sts": "senders fetch the MTA-STS policy there (RFC 8461), and the certificate names it",
    "www": "people type it, and the certificate names it",
    "_mta-sts": "tells senders that a policy exists and when it changed (RFC 8461)",
    "dkim": "other relays refuse mail whose DKIM signature they cannot verify",
    "spf": "some servers take mail without SPF for spam",
    "_dmarc": "others shall refuse mail that claims to be from here and is not signed",
    "caa": "only this CA account may get a certificate for the domain (RFC 8657)",
    "_adsp": "old servers shall drop unsigned mail that claims to be from here",
    "SRV": "clients find ports by it (RFC 6186)",
    "unused address": "the machine has no such address, so clients and servers wait in vain",
    "withdrawn": "the DKIM key was retired long ago",
    "test domain": "a test domain has a self-signed certificate, so a policy would stop mail",
}


def list_records(settings):
    """Return every record that DNS should have for this relay.

    Returns a list of {"name", "type", "ttl" in seconds, "value", "need", "why"}. Names end with a
    dot. A TXT value is one text. need is required or recommended. The list is empty for a relay
    without a domain. Raises OperatorError when no public address is known.
    """
    if settings["form"] == "ip":
        return []
    domain = f"{settings['mail_domain']}."
    found = [
        _make_record(domain, "AAAA" if ":" in address else "A", address)
        for address in _find_addresses(settings)
    ]
    found.append(_make_record(domain, "MX", f"10 {domain}"))
    found.append(_make_record(f"www.{domain}", "CNAME", domain, "www"))
    if settings["mta_sts_id"]:
        policy = f"v=STSv1; id={settings['mta_sts_id']}"
        found.append(_make_record(f"mta-sts.{domain}", "CNAME", domain, "mta-sts"))
        found.append(_make_record(f"_mta-sts.{domain}", "TXT", policy, "_mta-sts"))
    found += [
        record | {"need": "required", "why": WHY["dkim"]} for record in list_key_records(settings)
    ]
    return found + _list_recommended(settings, domain)


def _make_record(name, rdtype, value, why=None, need="required"):
    return {
        "name": name,
        "type": rdtype,
        "ttl": TTL,
        "value": value,
        "need": need,
        "why": WHY[why or rdtype],
    }


def _list_recommended(settings, domain):
    """Return the records that a relay does not need, but that make it work better."""
    rows = [
        (domain, "TXT", "v=spf1 a ~all", "spf"),
        (f"_dmarc.{domain}", "TXT", "v=DMARC1;p=reject;adkim=s;aspf=s", "_dmarc"),
        (f"_adsp._domainkey.{domain}", "TXT", "dkim=discardable", "_adsp"),
        (f"_submission._tcp.{domain}", "SRV", f"0 1 587 {domain}", "SRV"),
        (f"_submissions._tcp.{domain}", "SRV", f"0 1 465 {domain}", "SRV"),
        (f"_imap._tcp.{domain}", "SRV", f"0 1 143 {domain}", "SRV"),
        (f"_imaps._tcp.{domain}", "SRV", f"0 1 993 {domain}", "SRV"),
    ]
    issue = _make_caa(settings)
    if issue:
        rows.append((domain, "CAA", issue, "caa"))
    return [_make_record(*row, need="recommended") for row in rows]


def _find_addresses(settings):
    """Return the public addresses of the machine, IPv4 first.

    The Salt module adds `own_addresses` to the settings when `dns:addresses` is not set.
    """
    given = settings["dns"]["addresses"]
    found = given or settings.get("own_addresses", [])
    parsed = {ipaddress.ip_address(address) for address in found}
    if not given:
        parsed = {a for a in parsed if not any(a in network for network in NOT_PUBLIC)}
    if settings["disable_ipv6"]:
        parsed = {address for address in parsed if address.version == 4}
    if not parsed:
        raise OperatorError(
            f"no public IP address found on this machine (it has {', '.join(found) or 'none'}): "
            "set chatmail:dns:addresses in pillar to its public addresses"
        )
    return [str(a) for a in sorted(parsed, key=lambda address: (address.version, address))]


def _make_caa(settings):
    """Return the CAA value with our ACME account, None without one (RFC 8657 section 3)."""
    if settings["tls_mode"] != "acme":
        return None
    directory = urllib.parse.urlsplit(settings["acme_directory"])
    issuer = settings["dns"]["caa_issuer"] or CAA_ISSUERS.get(directory.hostname)
    # certbot: accounts/<host of the directory>/<path of the directory>/<account>/regr.json
    folder = ACME_ACCOUNTS / directory.netloc / directory.path.strip("/")
    accounts = sorted(folder.glob("*/regr.json"))
    if not issuer or not accounts:
        return None
    try:
        uri = json.loads(accounts[-1].read_text())["uri"]
    except (OSError, ValueError, KeyError) as error:
        raise OperatorError(
            f"{accounts[-1]} names no ACME account ({error}): see `certbot show_account`"
        ) from error
    return f'0 issue "{issuer};accounturi={uri}"'
