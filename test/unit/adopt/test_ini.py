"""chatmail.ini of each version, and the pillar that keeps the machine's behaviour."""

import pytest
from chatmaild.adopt import ini
from chatmaild.common.errors import OperatorError
from support.settings import settings

DOMAIN = "chat.example.org"
# As `cmdeploy init` of version 1.9 writes it: every default is spelled out.
GENERATED = """
[params]

# mail domain (MUST be set to fully qualified chat mail domain)
mail_domain = chat.example.org

max_user_send_per_minute = 60
max_user_send_burst_size = 10
max_mailbox_size = 500M
max_message_size = 31457280
delete_mails_after = 20
delete_large_after = 7
delete_inactive_users_after = 90
username_min_length = 9
username_max_length = 9
password_min_length = 9
passthrough_senders =
passthrough_recipients =
#www_folder = www
filtermail_smtp_port = 10080
disable_ipv6 = False
acme_email =
imap_rawlog = false
imap_compress = false
privacy_postal =
privacy_mail =
privacy_pdo =
privacy_supervisor =
mailboxes_dir = /home/vmail/mail/chat.example.org
"""
# Each setting with a value that is not the default, and what the pillar then has.
VALUES = [
    ("max_user_send_per_minute", "6000", 6000),
    ("max_user_send_burst_size", "100", 100),
    ("max_mailbox_size", "100M", "100M"),
    ("max_mailbox_size", "2 GB", "2048M"),
    ("max_mailbox_size", "104857601", 104857601),
    ("max_message_size", "10485760", "10M"),
    ("delete_mails_after", "40", 40),
    ("delete_large_after", "14", 14),
    ("delete_inactive_users_after", "100", 100),
    ("username_min_length", "6", 6),
    ("username_max_length", "20", 20),
    ("password_min_length", "12", 12),
    ("max_load_1m", "7.5", 7.5),
    ("min_available_memory", "100M", "100M"),
    ("min_free_disk_space", "2G", "2048M"),
    ("max_imap_connections", "50000", 50000),
    ("max_smtp_connections", "5000", 5000),
    ("disable_ipv6", "TRUE", True),
    ("imap_rawlog", "true", True),
    ("imap_compress", "True", True),
    ("acme_email", "root@example.org", "root@example.org"),
    ("tls_external_cert_and_key", "/etc/a.pem /etc/b.pem", ["/etc/a.pem", "/etc/b.pem"]),
    ("iroh_relay", "https://iroh.example.org", "https://iroh.example.org"),
    ("iroh_relay", "", ""),
    ("mtail_address", "10.0.0.1", "10.0.0.1:3903"),
    ("mtail_address", "fd00::1", "[fd00::1]:3903"),
    ("privacy_postal", "Jane Doe\n  1 Main Street", "Jane Doe\n1 Main Street"),
    ("privacy_mail", "jane@example.org", "jane@example.org"),
    ("privacy_pdo", "John", "John"),
    ("privacy_supervisor", "The state", "The state"),
    ("mailboxes_dir", "/srv/mail/chat/", "/srv/mail/chat"),
]
REFUSED = [
    ("password_min_length", "5"),
    ("password_min_length", "nine"),
    ("max_mailbox_size", "10K"),
    ("privacy_mail", "jane at example.org"),
    ("mailboxes_dir", "/srv"),
    ("mtail_address", "wg0"),
    ("iroh_relay", "iroh.example.org"),
    ("tls_external_cert_and_key", "/etc/a.pem"),
    ("max_load_1m", "0"),
]


def translated(lines, absent=None):
    return ini.translate(ini.parse(f"[params]\nmail_domain = {DOMAIN}\n{lines}\n"), absent)


def resolved(pillar):
    return settings.resolve({"chatmail": pillar}, {"os": "Debian", "osmajorrelease": 12})


def test_generated_file_needs_only_the_domain_in_pillar():
    found, without = ini.translate(ini.parse(GENERATED))
    assert found == {"mail_domain": DOMAIN}
    assert set(without) == {"filtermail_smtp_port"}


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_setting_keeps_its_meaning_in_pillar(name, text, value):
    found, without = translated(f"{name} = {text}")
    key = {"mtail_address": "metrics_address"}.get(name, name)
    assert (ini.show(found), without) == ({"mail_domain": DOMAIN, key: value}, {})
    # The relay takes the pillar, and reads from it what the machine had.
    assert resolved(ini.show(found))[key] == found[key]


def test_each_setting_of_the_table_is_tried():
    assert {name for name, *_ in VALUES} == {setting.ini for setting in ini.SETTINGS}


def test_defaults_of_the_table_are_those_of_the_relay():
    relay = resolved({"mail_domain": DOMAIN})
    derived = {"mailboxes_dir": f"/home/vmail/mail/{DOMAIN}"}
    for setting in ini.SETTINGS:
        assert relay[setting.name] == derived.get(setting.name, setting.default), setting.name


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_value_that_the_relay_does_not_take_is_named(name, text):
    found, without = translated(f"{name} = {text}")
    assert found == {"mail_domain": DOMAIN}
    assert "allowed is" in without[name]


@pytest.mark.parametrize("name", ini.WITHOUT_EQUIVALENT)
def test_setting_without_an_equivalent_is_named_unless_it_is_empty(name):
    assert translated(f"{name} = x y")[1] == {name: ini.WITHOUT_EQUIVALENT[name]}
    assert translated(f"{name} =")[1] == {}


def test_unknown_setting_is_named():
    assert translated("of_mine = 1")[1] == {"of_mine": "the relay knows no such setting"}


def test_limit_that_older_versions_do_not_write_comes_from_the_machine():
    assert translated("", {"max_imap_connections": "50000"})[0]["max_imap_connections"] == 50000
    given = translated("max_imap_connections = 9", {"max_imap_connections": "50000"})
    assert given[0]["max_imap_connections"] == 9


@pytest.mark.parametrize("domain", ["chat.example.org", "_chat.example.org", "192.0.2.1"])
def test_all_forms_of_a_domain_are_read(domain):
    assert ini.parse(f"[params]\nmail_domain = {domain.upper()}\n")["mail_domain"] == domain


@pytest.mark.parametrize(
    "text", ["", "mail_domain = x.example", "[params]\n", "[params]\nmail_domain =\n", "[params\n"]
)
def test_file_without_a_domain_is_refused(text):
    with pytest.raises(OperatorError, match=r"^chatmail\.ini"):
        ini.parse(text)
