"""chatmail/settings.py: pillar in, settings out, every mistake named at once."""

import importlib.util
import json
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

PATH = Path(__file__).resolve().parents[2] / "chatmail" / "settings.py"
spec = importlib.util.spec_from_file_location("chatmail_settings", PATH)
settings = importlib.util.module_from_spec(spec)
spec.loader.exec_module(settings)

TRIXIE = {"os": "Debian", "osmajorrelease": 13}
MIB = 1 << 20


def resolve(grains=TRIXIE, **pillar):
    return settings.resolve({"chatmail": {"mail_domain": "chat.example.org", **pillar}}, grains)


def refused(grains=TRIXIE, **pillar):
    """Return the lines of the refusal, its first one left out."""
    with pytest.raises(settings.SettingsError) as caught:
        resolve(grains, **pillar)
    return str(caught.value).splitlines()[1:]


def test_defaults_are_those_of_existing_relays():
    relay = resolve()
    expected = {
        "max_user_send_per_minute": 60,
        "max_user_send_burst_size": 10,
        "max_mailbox_size": 500 * MIB,
        "max_message_size": 31457280,
        "delete_mails_after": 20,
        "delete_large_after": 7,
        "delete_inactive_users_after": 90,
        "username_min_length": 9,
        "username_max_length": 9,
        "password_min_length": 9,
        "max_load_1m": 5,
        "min_available_memory": 200 * MIB,
        "min_free_disk_space": 1024 * MIB,
        "max_imap_connections": 10000,
        "max_smtp_connections": 1000,
        "disable_ipv6": False,
        "acme_email": None,
        "tls_external_cert_and_key": None,
        "iroh_relay": None,
        "metrics_address": None,
        "imap_rawlog": False,
        "imap_compress": False,
        "www_folder": None,
        "mailboxes_dir": "/home/vmail/mail/chat.example.org",
        "privacy_postal": None,
        "privacy_mail": None,
        "privacy_pdo": None,
        "privacy_supervisor": None,
        "nocreate": False,
        "registration": "open",
        "max_registrations_per_hour": 100,
        "federation": {"block": [], "allow": [], "private_networks": []},
        "mail": True,
        "fsync": True,
        "clean": {"purge": False},
        "acme_directory": "https://acme-v02.api.letsencrypt.org/directory",
        "acme_challenge": "http-01",
        "resolver": {"forwarders": [], "trust_anchors": []},
        "dkim": {"rotate_after": None, "retire_after": 14},
        "dns": dict.fromkeys(
            ["addresses", "server", "tsig_key_file", "zone", "hook", "caa_issuer"]
        ),
    }
    assert {name: relay[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("domain", "form", "address_domain", "hostname", "tls_mode", "tls_names", "dkim"),
    [
        (
            "chat.example.org",
            "domain",
            "chat.example.org",
            "chat.example.org",
            "acme",
            ["chat.example.org", "www.chat.example.org", "mta-sts.chat.example.org"],
            True,
        ),
        (
            "_chat.example.org",
            "test",
            "_chat.example.org",
            "_chat.example.org",
            "self_signed",
            ["_chat.example.org", "www._chat.example.org", "mta-sts._chat.example.org"],
            True,
        ),
        (
            "13.12.23.42",
            "ip",
            "[13.12.23.42]",
            "42.23.12.13.in-addr.arpa",
            "self_signed",
            ["13.12.23.42"],
            False,
        ),
    ],
)
def test_form_of_the_mail_domain_decides_what_follows(
    domain, form, address_domain, hostname, tls_mode, tls_names, dkim
):
    relay = resolve(mail_domain=domain)
    assert relay["form"] == form
    assert relay["address_domain"] == address_domain
    assert relay["hostname"] == hostname
    assert relay["tls_mode"] == tls_mode
    assert relay["tls_names"] == tls_names
    assert relay["dkim_required"] is dkim
    assert relay["mailboxes_dir"] == f"/home/vmail/mail/{domain}"


@pytest.mark.parametrize(
    ("domain", "oldest"),
    [
        ("chat.example.org", "TLSv1.3"),
        ("_chat.example.org", "TLSv1.3"),
        ("13.12.23.42", "TLSv1.2"),
    ],
)
def test_relay_without_a_domain_alone_takes_clients_with_tls_1_2(domain, oldest):
    """There Delta Chat checks no certificate, and Apple's clients speak no TLS 1.3 then."""
    assert resolve(mail_domain=domain)["oldest_client_tls"] == oldest


@pytest.mark.parametrize(("release", "dovecot"), [(12, "2.3"), (13, "2.4"), ("13", "2.4")])
def test_debian_release_decides_the_dovecot_version(release, dovecot):
    relay = resolve({"os": "Debian", "osmajorrelease": release})
    assert relay["debian_release"] == int(release)
    assert relay["dovecot_version"] == dovecot


@pytest.mark.parametrize(
    "grains",
    [
        {"os": "Ubuntu", "osmajorrelease": 24},
        {"os": "Debian", "osmajorrelease": 11},
        {"os": "Debian", "osmajorrelease": 14},
        {},
    ],
)
def test_other_operating_system_is_refused_with_the_other_mistakes(grains):
    lines = refused(grains, nocreate=1)
    assert len(lines) == 2
    assert lines[0].startswith("- operating system: found ")
    assert "allowed is Debian 12 or 13" in lines[0]
    assert lines[1].startswith("- nocreate: 1, ")


def test_derived_numbers():
    relay = resolve(max_mailbox_size="3G", max_smtp_connections=104)
    assert relay["max_mailbox_size"] == 3 << 30
    assert relay["max_mailbox_size_mb"] == 3072
    assert relay["max_smtp_connections_per_ip"] == 20


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (None, None),
        (["192.0.2.1"], "192.0.2.1"),
        (["2001:db8::1", "192.0.2.1"], "192.0.2.1"),
        (["2001:db8::1"], None),
        # NAT gives one.
        (["192.0.2.1", "192.0.2.2"], None),
        # The machine has it itself.
        (["198.51.100.7"], None),
    ],
)
def test_public_ipv4_address_that_only_nat_knows_is_what_turn_gives_out(addresses, expected):
    grains = {**TRIXIE, "ipv4": ["127.0.0.1", "198.51.100.7"]}
    assert resolve(grains, dns={"addresses": addresses})["turn_external_ip"] == expected


DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("architecture", "given", "url_has", "sha256_begins"),
    [
        ("x86_64", {}, "v0.35.0-x86_64-unknown-linux-musl.tar.gz", "45c81199"),
        ("aarch64", {}, "v0.35.0-aarch64-unknown-linux-musl.tar.gz", "f8ef2763"),
        ("x86_64", {"url": "http://mirror.example/i.tar.gz"}, "mirror.example", "45c81199"),
        ("x86_64", {"sha256": DIGEST.upper()}, "github.com", DIGEST),
        ("riscv64", {"url": "http://a.example/i.tar.gz", "sha256": DIGEST}, "a.example", DIGEST),
    ],
)
def test_iroh_binary_is_the_known_one_of_the_architecture_or_the_operators(
    architecture, given, url_has, sha256_begins
):
    binary = resolve({**TRIXIE, "cpuarch": architecture}, iroh_binary=given)["iroh_binary"]
    assert url_has in binary["url"]
    assert binary["sha256"].startswith(sha256_begins)


def test_architecture_without_a_known_iroh_binary_has_none_and_all_else():
    relay = resolve({**TRIXIE, "cpuarch": "riscv64"})
    assert relay["iroh_binary"] == {"url": None, "sha256": None}
    assert relay["form"] == "domain"


def test_external_certificate_decides_the_tls_mode_of_every_form():
    pair = ["/etc/ssl/fullchain.pem", "/etc/ssl/key.pem"]
    for domain in ("chat.example.org", "_chat.example.org", "13.12.23.42"):
        relay = resolve(mail_domain=domain, tls_external_cert_and_key=pair)
        assert relay["tls_mode"] == "external"
        assert relay["tls_external_cert_and_key"] == pair
    assert resolve(tls_external_cert_and_key=" ".join(pair))["tls_external_cert_and_key"] == pair


GOOD = [
    ("mail_domain", "Chat.Example.ORG.", "chat.example.org"),
    ("mail_domain", "xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
    ("mail_domain", "10.0.0.5", "10.0.0.5"),
    ("mail_domain", "a.b", "a.b"),
    ("max_mailbox_size", "800m", 800 * MIB),
    ("max_mailbox_size", "1048576000", 1000 * MIB),
    ("max_message_size", "64K", 65536),
    ("max_load_1m", 0.5, 0.5),
    ("min_free_disk_space", 0, 0),
    ("acme_email", "", None),
    ("acme_email", "admin+acme@example.org", "admin+acme@example.org"),
    ("acme_directory", "https://ca.example.org/acme/dir", "https://ca.example.org/acme/dir"),
    ("iroh_relay", None, None),
    ("iroh_relay", "", ""),
    ("iroh_relay", "https://iroh.example.org:8443/", "https://iroh.example.org:8443/"),
    ("iroh_relay", "https://[2001:db8::1]", "https://[2001:db8::1]"),
    ("metrics_address", "127.0.0.1:3903", "127.0.0.1:3903"),
    ("metrics_address", "[::1]:3903", "[::1]:3903"),
    ("metrics_address", "localhost:3903", "localhost:3903"),
    ("www_folder", "disabled", "disabled"),
    ("www_folder", "/srv//www/./x/", "/srv/www/x"),
    ("mailboxes_dir", "/srv/mail/[1.2.3.4]", "/srv/mail/[1.2.3.4]"),
    ("privacy_postal", "A. Body\nStreet 1\nMünchen\n", "A. Body\nStreet 1\nMünchen"),
]


# Keys of a group, by the name that messages give them.
GOOD_NESTED = [
    ("resolver:forwarders", [], []),
    ("resolver:forwarders", ["192.0.2.1", "2001:DB8::1"], ["192.0.2.1", "2001:db8::1"]),
    ("resolver:trust_anchors", [". IN DS 20326 8 2 E06D44B8"], [". IN DS 20326 8 2 E06D44B8"]),
    ("resolver:trust_anchors", ["a.b. DNSKEY 257 3 13 Zm8="], ["a.b. DNSKEY 257 3 13 Zm8="]),
    ("dns:addresses", ["192.0.2.1"], ["192.0.2.1"]),
    ("dns:zone", "Example.org.", "example.org"),
    ("dns:hook", "desec.apply", "desec.apply"),
    ("dkim:retire_after", 30, 30),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD_NESTED)
def test_good_value_of_a_group_is_accepted_in_its_one_form(name, value, expected):
    group, _, inner = name.partition(":")
    assert resolve(**{group: {inner: value}})[group][inner] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "open"),
        ({"registration": "invite"}, "invite"),
        ({"registration": "closed"}, "closed"),
        ({"nocreate": True}, "closed"),
        ({"nocreate": True, "registration": "invite"}, "closed"),
    ],
)
def test_nocreate_is_another_name_for_closed_registration(given, expected):
    relay = resolve(**given)
    assert relay["registration"] == expected
    assert relay["nocreate"] is (expected == "closed")


def test_networks_of_the_federation_come_back_in_short_form():
    given = {"private_networks": ["10.0.0.0/8", "FD00:0::/8", "192.0.2.1"]}
    assert resolve(federation=given)["federation"]["private_networks"] == [
        "10.0.0.0/8",
        "fd00::/8",
        "192.0.2.1/32",
    ]


def test_domains_of_the_federation_come_back_as_they_stand_in_addresses():
    given = {"block": ["Spam.Example.", "[192.0.2.1]", "192.0.2.2"], "allow": ["_test.example"]}
    assert resolve(federation=given)["federation"] == {
        "block": ["[192.0.2.1]", "[192.0.2.2]", "spam.example"],
        "allow": ["_test.example"],
        "private_networks": [],
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("ns1.example.org", "ns1.example.org:53"),
        ("NS1.example.org.:5353", None),
        ("192.0.2.1:5353", "192.0.2.1:5353"),
        ("2001:db8::1", "[2001:db8::1]:53"),
    ],
)
def test_server_of_dns_gets_the_usual_port(given, expected):
    group = {"server": given, "tsig_key_file": "/etc/chatmail/tsig.key"}
    if expected is None:
        assert refused(dns=group)[0].startswith("- dns:server: ")
    else:
        assert resolve(dns=group)["dns"]["server"] == expected


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_good_value_is_accepted_in_its_one_form(name, value, expected):
    assert resolve(**{name: value})[name] == expected


BAD = [
    # name, value, why
    ("mail_domain", "localhost", "not an FQDN"),
    ("mail_domain", "", "empty"),
    ("mail_domain", 1.2, "what YAML makes of an unquoted 1.2"),
    ("mail_domain", "-a.example.org", "a label starts with -"),
    ("mail_domain", "a..example.org", "empty label"),
    ("mail_domain", "chat._example.org", "_ in a later label"),
    ("mail_domain", "_.example.org", "nothing after _"),
    ("mail_domain", "__chat.example.org", "two _"),
    ("mail_domain", "a" * 64 + ".example.org", "label too long"),
    ("mail_domain", ".".join(["a" * 60] * 4) + ".org", "mta-sts.<domain> gets too long"),
    ("mail_domain", "chat.example.org\n", "newline"),
    ("mail_domain", "chat.example.org/x", "slash"),
    ("mail_domain", "user@example.org", "an address"),
    ("mail_domain", "[13.12.23.42]", "brackets"),
    ("mail_domain", "13.12.23.256", "no IPv4 address"),
    ("mail_domain", "1.2.3", "numeric last label"),
    ("mail_domain", "0.0.0.0", "no host"),
    ("mail_domain", "0.1.2.3", "this network"),
    ("mail_domain", "127.0.0.1", "loopback"),
    ("mail_domain", "224.0.0.1", "multicast"),
    ("mail_domain", "255.255.255.255", "broadcast"),
    ("mail_domain", "2001:db8::1", "IPv6 alone"),
    ("max_user_send_per_minute", 0, "nobody could send"),
    ("max_user_send_per_minute", "60", "a text"),
    ("max_user_send_per_minute", True, "a boolean is no number"),
    ("max_user_send_per_minute", 1.5, "not whole"),
    ("max_mailbox_size", "500MB", "unknown unit"),
    ("max_mailbox_size", "-1M", "negative"),
    ("max_mailbox_size", "0.5G", "not whole"),
    ("max_mailbox_size", "M", "no number"),
    ("max_mailbox_size", 1024, "below 1M"),
    ("max_mailbox_size", None, "nothing after the colon"),
    ("max_mailbox_size", "9" * 16 + "G", "more than there is"),
    ("max_mailbox_size", [500], "a list"),
    ("max_mailbox_size", True, "a boolean"),
    ("delete_mails_after", 0, "would delete on arrival"),
    ("delete_mails_after", "20 days", "a text"),
    ("username_min_length", 0, "empty local part"),
    ("username_max_length", 65, "RFC 5321"),
    ("password_min_length", 7, "guessable"),
    ("max_load_1m", 0, "no address ever"),
    ("max_load_1m", float("nan"), "no number"),
    ("max_load_1m", float("inf"), "no number"),
    ("max_smtp_connections", 4, "a fifth of it is none"),
    ("nocreate", "yes", "a text"),
    ("nocreate", 1, "a number"),
    ("nocreate", None, "nothing"),
    ("registration", "invited", "not offered"),
    ("registration", True, "a boolean"),
    ("max_registrations_per_hour", 0, "nobody could come"),
    ("max_registrations_per_hour", "100/h", "a text"),
    ("federation", {"block": "example.org"}, "no list"),
    ("federation", {"block": ["spam@example.org"]}, "an address"),
    ("federation", {"allow": [None]}, "nothing"),
    ("federation", {"allow": ["*.example.org"]}, "a pattern"),
    ("federation", ["example.org"], "no mapping"),
    ("federation", {"private_networks": "10.0.0.0/8"}, "no list"),
    ("federation", {"private_networks": [10]}, "a number"),
    ("federation", {"private_networks": ["10.0.0.8/8"]}, "an address in a network"),
    ("federation", {"private_networks": ["intranet"]}, "a name"),
    ("mail", "off", "a text"),
    ("acme_email", "nobody", "no @"),
    ("acme_email", "a@b\nc", "newline"),
    ("tls_external_cert_and_key", "/a/cert", "one path"),
    ("tls_external_cert_and_key", ["/a/cert", "/a/./cert"], "two paths that are one"),
    ("tls_external_cert_and_key", ["cert", "key"], "relative"),
    ("tls_external_cert_and_key", ["/a", "/b", "/c"], "three"),
    ("tls_external_cert_and_key", {"cert": "/a", "key": "/b"}, "a mapping"),
    ("acme_directory", "acme.example.org", "no URL"),
    ("acme_directory", None, "nothing"),
    ("acme_challenge", "tls-alpn-01", "not offered"),
    ("acme_challenge", ["dns-01"], "a list"),
    ("resolver", {"forwarders": ["dns.example.org"]}, "a name, which nobody resolves yet"),
    ("resolver", {"forwarders": "192.0.2.1"}, "no list"),
    ("resolver", {"forwarders": False}, "no list"),
    ("resolver", {"trust_anchors": ["20326 8 2 E06D"]}, "no name and no type"),
    ("resolver", {"trust_anchors": ['. IN DS 1 8 2 00"']}, "a quote"),
    ("resolver", {"trust_anchors": ". IN DS 1 8 2 00"}, "no list"),
    ("dns", {"addresses": ["host"]}, "a name"),
    ("dns", {"hook": "apply"}, "no module"),
    ("dkim", {"retire_after": 0}, "mail on its way could not be verified"),
    ("iroh_relay", "iroh.example.org", "no scheme"),
    ("iroh_relay", "ftp://example.org", "wrong scheme"),
    ("iroh_relay", "https://", "no host"),
    ("iroh_relay", "https://example.org:99999", "no port"),
    ("iroh_relay", 'https://example.org/"', "a quote"),
    ("iroh_relay", "https://a:b@example.org", "a login"),
    ("iroh_relay", False, "a boolean"),
    ("iroh_binary", {"url": "file:///tmp/iroh.tar.gz"}, "wrong scheme"),
    ("iroh_binary", {"sha256": "45c81199"}, "too short"),
    ("iroh_binary", {"sha256": "x" * 64}, "not hexadecimal"),
    ("iroh_binary", {"sha256": int("1" * 64)}, "a number"),
    ("iroh_binary", "https://example.org/iroh.tar.gz", "not a mapping"),
    ("metrics_address", "3903", "no host"),
    ("metrics_address", "127.0.0.1", "no port"),
    ("metrics_address", "127.0.0.1:0", "no port"),
    ("metrics_address", "127.0.0.1:1023", "a port for root"),
    ("metrics_address", "::1:3903", "no brackets"),
    ("metrics_address", "a;b:3903", "no host"),
    ("metrics_address", "[127.0.0.1]:3903", "brackets are for IPv6"),
    ("metrics_address", "[localhost]:3903", "brackets are for IPv6"),
    ("www_folder", "www", "relative"),
    ("www_folder", "/srv/$HOME", "a daemon would expand it"),
    ("mailboxes_dir", "/", "the root"),
    ("mailboxes_dir", "/home", "not ours alone"),
    ("mailboxes_dir", "/srv/../etc", "leaves the path"),
    ("mailboxes_dir", "/srv/my mail", "a blank"),
    ("mailboxes_dir", "/srv/%d", "Dovecot would expand it"),
    ("mailboxes_dir", "/srv/x\n", "newline"),
    ("privacy_postal", "a\0b", "a control character"),
    ("privacy_pdo", 5, "a number"),
    ("fsync", "true", "a text"),
    ("clean", True, "no mapping"),
    ("clean", {"purge": "yes"}, "a text"),
]


@pytest.mark.parametrize(("name", "value", "why"), BAD)
def test_bad_value_is_refused_by_name_with_what_is_allowed(name, value, why):
    lines = refused(**{name: value})
    assert len(lines) == 1, why
    assert lines[0].startswith(f"- {name}"), why
    assert "allowed is " in lines[0], why


def test_all_mistakes_are_named_in_one_message():
    text = "\n".join(
        refused(
            max_mailbox_size="500X", fsync="no", nocrate=True, clean={"purge": 1}, mail_domain="x"
        )
    )
    for part in (
        "max_mailbox_size: '500X', allowed is bytes",
        "fsync: 'no', allowed is true or false",
        "nocrate: True, no such setting; did you mean nocreate?",
        "clean:purge: 1, allowed is true or false",
        "mail_domain: 'x', allowed is a full domain name",
    ):
        assert part in text


def test_international_name_is_refused_with_its_punycode():
    assert "xn--mnchen-3ya.example" in refused(mail_domain="münchen.example")[0]


def test_unknown_key_without_likeness_keeps_its_value_to_itself():
    """A secret in the wrong place must not reach logs by way of the error message."""
    (line,) = refused(turn_secrets="hunter2")
    assert line.startswith("- turn_secrets: no such setting")
    assert "hunter2" not in line


def test_nested_key_written_with_a_colon_is_refused():
    assert "did you mean clean:purge?" in refused(**{"clean:purge": True})[0]


def test_control_characters_in_a_key_do_not_break_the_message():
    """A newline in a key's name made two lines of one report."""
    assert refused(**{"a\nb": 1}) == [
        r"- 'a\nb': no such setting; pillar.example lists all of them"
    ]


def test_long_value_is_shortened_in_the_message():
    (line,) = refused(acme_email="x" * 5000)
    assert len(line) < 250


@pytest.mark.parametrize(
    ("pillar", "named"),
    [
        ({"username_min_length": 12}, "username_min_length: 12, allowed is at most"),
        ({"username_min_length": 12, "username_max_length": 10}, "username_min_length: 12"),
        ({"max_message_size": "600M"}, "max_message_size: 629145600, allowed is at most"),
        ({"www_folder": "/srv/a/b", "mailboxes_dir": "/srv/a/b"}, "mailboxes_dir: '/srv/a/b'"),
        ({"www_folder": "/srv", "mailboxes_dir": "/srv/mail/x"}, "mailboxes_dir: '/srv/mail/x'"),
        ({"www_folder": "/home/vmail"}, "mailboxes_dir: '/home/vmail/mail/chat.example.org'"),
        ({"www_folder": "/"}, "mailboxes_dir: "),
        ({"acme_challenge": "dns-01"}, "acme_challenge: dns-01 needs dns:server"),
        ({"dns": {"server": "192.0.2.1"}}, "dns:server and dns:tsig_key_file: "),
        (
            {"dns": {"server": "ns", "tsig_key_file": "/k", "hook": "a.b"}},
            "dns:server and dns:hook: ",
        ),
        ({"dkim": {"rotate_after": 90}}, "dkim:rotate_after: needs dns:server"),
        (
            {"federation": {"block": ["a.org", "b.org"], "allow": ["B.org."]}},
            "federation:block and federation:allow: ['b.org']",
        ),
        ({"federation": {"block": ["example.org"]}}, "federation:block: ['example.org']"),
        (
            {"mail_domain": "192.0.2.1", "federation": {"block": ["192.0.2.1"]}},
            "federation:block: ['[192.0.2.1]']",
        ),
        (
            {"tls_external_cert_and_key": ["/etc/chatmail/tls/fullchain.pem", "/etc/k.pem"]},
            "tls_external_cert_and_key: ",
        ),
    ],
)
def test_contradiction_is_refused(pillar, named):
    (line,) = refused(**pillar)
    assert line.startswith(f"- {named}")


def test_value_in_error_is_reported_once_and_not_as_a_contradiction_too():
    assert len(refused(username_min_length=99)) == 1


@pytest.mark.parametrize("pillar", [{}, {"chatmail": {}}, {"chatmail": {"nocreate": True}}])
def test_missing_mail_domain_is_the_one_complaint(pillar):
    with pytest.raises(settings.SettingsError, match="mail_domain: missing") as caught:
        settings.resolve(pillar, TRIXIE)
    assert str(caught.value).startswith("1 problem")


@pytest.mark.parametrize("value", [None, "chat.example.org", ["mail_domain"], 5])
def test_pillar_that_is_no_mapping_is_refused(value):
    with pytest.raises(settings.SettingsError, match=r"chatmail: .*allowed is a mapping"):
        settings.resolve({"chatmail": value}, TRIXIE)


def test_result_shares_nothing_with_the_defaults():
    resolve()["clean"]["purge"] = True
    resolve()["resolver"]["forwarders"].append("192.0.2.1")
    assert resolve()["clean"] == {"purge": False}
    assert resolve()["resolver"]["forwarders"] == []


# Properties.

# The first text of a checkout takes Hypothesis a second (it tabulates Unicode).
patient = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from([value for _, value, _ in BAD] + [value for _, value, _ in GOOD]),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)
NAMES = [key.name for key in settings.KEYS if ":" not in key.name]


@patient
@given(
    st.dictionaries(
        st.sampled_from([*NAMES, "clean", "clea", "clean:purge", "x", "a\nb", 5, None]), VALUES
    )
)
def test_any_pillar_gives_settings_or_one_message_that_names_the_keys(pillar):
    try:
        relay = settings.resolve({"chatmail": pillar}, TRIXIE)
    except settings.SettingsError as error:
        lines = str(error).splitlines()
        # Every line is a report of its own: no value breaks a line or repeats one.
        assert int(lines[0].split()[0]) == len(lines) - 1
        assert all(line.startswith("- ") and len(line) < 400 for line in lines[1:])
    else:
        assert json.loads(json.dumps(relay, allow_nan=False)) == relay
        assert set(pillar) <= set(relay)


@patient
@given(st.sets(st.sampled_from(["max_load_1m", "delete_mails_after", "password_min_length"])))
def test_partial_pillar_keeps_every_other_default(names):
    relay, default = resolve(**dict.fromkeys(names, 11)), resolve()
    assert {name for name in relay if relay[name] != default[name]} == names


@patient
@given(st.integers(1, 1 << 20), st.sampled_from(["", "K", "M", "G", "k", "m", "g"]))
def test_sizes_come_back_in_bytes(number, unit):
    factor = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[unit.upper()]
    assert resolve(min_free_disk_space=f"{number}{unit}")["min_free_disk_space"] == number * factor


@patient
@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_resolving_what_was_resolved_changes_nothing(pillar):
    """Every accepted value is already in the form that would be accepted again."""
    try:
        relay = resolve(**pillar)
    except settings.SettingsError:
        return
    again = resolve(**{name: relay[name] for name in [*NAMES, "clean"]})
    assert again == relay


@patient
@given(st.ip_addresses(v=4))
def test_ipv4_relay_keeps_its_address_in_every_derived_value(address):
    try:
        relay = resolve(mail_domain=str(address))
    except settings.SettingsError:
        assert not address.is_global or int(address) < 1 << 24 or address.is_multicast
        return
    assert relay["address_domain"] == f"[{address}]"
    assert relay["hostname"] == address.reverse_pointer
