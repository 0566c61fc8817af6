"""chatmail/settings.py makes settings from a pillar, and names all mistakes at once."""

import json

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.settings import TRIXIE, refused, resolve, settings

MIB = 1 << 20


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
        "imap_notify": True,
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
        "backup_recipients": [],
        "acme_directory": "https://acme-v02.api.letsencrypt.org/directory",
        "acme_challenge": "http-01",
        "resolver": {"forwarders": [], "trust_anchors": []},
        "dkim": {"rotate_after": None, "retire_after": 14},
        "dns": dict.fromkeys(
            ["addresses", "server", "tsig_key_file", "zone", "hook", "caa_issuer"]
        ),
    }
    assert {name: relay[name] for name in expected} == expected


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


# Keys of a group, with the name that they have in messages.
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
    ("imap_notify", "at once", "a text"),
    ("clean", True, "no mapping"),
    ("clean", {"purge": "yes"}, "a text"),
]


@pytest.mark.parametrize(("name", "value", "why"), BAD)
def test_bad_value_is_refused_by_name_with_what_is_allowed(name, value, why):
    lines = refused(**{name: value})
    assert len(lines) == 1, why
    assert lines[0].startswith(f"- {name}"), why
    assert "allowed is " in lines[0], why


def test_change_of_a_result_does_not_change_the_defaults():
    resolve()["clean"]["purge"] = True
    resolve()["resolver"]["forwarders"].append("192.0.2.1")
    assert resolve()["clean"] == {"purge": False}
    assert resolve()["resolver"]["forwarders"] == []


# Properties.

# In a new checkout, Hypothesis needs a second for its first text, to make a table of Unicode.
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
        # Each line is one report: no value makes a second line.
        assert int(lines[0].split()[0]) == len(lines) - 1
        assert all(line.startswith("- ") and len(line) < 400 for line in lines[1:])
    else:
        assert json.loads(json.dumps(relay, allow_nan=False)) == relay
        assert set(pillar) <= set(relay)


@patient
@given(st.sets(st.sampled_from(["max_load_1m", "delete_mails_after", "password_min_length"])))
def test_partial_pillar_keeps_every_other_default(names):
    relay, default = resolve(**dict.fromkeys(names, 11)), resolve()
    del relay[
        "settings_digests"
    ]  # The digests depend on the other settings (test_settings_read.py).
    assert {name for name in relay if relay[name] != default[name]} == names


@patient
@given(st.integers(1, 1 << 20), st.sampled_from(["", "K", "M", "G", "k", "m", "g"]))
def test_sizes_come_back_in_bytes(number, unit):
    factor = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[unit.upper()]
    assert resolve(min_free_disk_space=f"{number}{unit}")["min_free_disk_space"] == number * factor


@patient
@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_resolving_what_was_resolved_changes_nothing(pillar):
    """Each value of the result is accepted again and stays the same."""
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
