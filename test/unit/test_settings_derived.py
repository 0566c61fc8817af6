"""Values that follow from the settings, and the form in which settings come back."""

import pytest
from support.settings import TRIXIE, refused, resolve, settings


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
    """Delta Chat checks no certificate there, and then Apple's clients speak no TLS 1.3."""
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
        # The machine is behind NAT.
        (["192.0.2.1", "192.0.2.2"], None),
        # The machine itself has the address.
        (["198.51.100.7"], None),
    ],
)
def test_turn_uses_the_public_ipv4_address_of_a_relay_behind_nat(addresses, expected):
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


def test_architecture_without_a_known_iroh_binary_has_all_other_settings():
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


def test_domains_of_the_federation_come_back_in_the_form_of_addresses():
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
def test_dns_server_without_a_port_gets_port_53(given, expected):
    group = {"server": given, "tsig_key_file": "/etc/chatmail/tsig.key"}
    if expected is None:
        assert refused(dns=group)[0].startswith("- dns:server: ")
    else:
        assert resolve(dns=group)["dns"]["server"] == expected


def test_machine_out_of_service_has_no_mail_whatever_the_pillar_says():
    pillar = {"chatmail": {"mail_domain": "chat.example.org", "mail": True}}
    off = settings.resolve(pillar, TRIXIE, mail_off=True)
    on = settings.resolve(pillar, TRIXIE)
    assert (off["mail"], off["in_service"]) == (False, False)
    assert (on["mail"], on["in_service"]) == (True, True)
    # So no service restarts.
    assert off["settings_digests"] == on["settings_digests"]


@pytest.mark.parametrize(
    ("connections", "processes"), [(1, 2), (10_000, 2), (20_000, 2), (20_001, 3), (100_000, 10)]
)
def test_login_process_holds_ten_thousand_clients(connections, processes):
    relay = resolve(max_imap_connections=connections)
    assert relay["imap_login_processes"] == processes
